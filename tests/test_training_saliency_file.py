"""The file of collected saliency: what it holds, resuming, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import Qwen2ForCausalLM

from erecap.models.identity import identify
from erecap.training.batches import collate
from erecap.training.saliency import SaliencySettings, collect_saliency, compute_saliency
from erecap.training.saliency_file import SaliencySet, parts_dir, read_metadata
from erecap.training.sequences import SequenceList, TokenSequence

STAGES = (1, 3)
SETTINGS = SaliencySettings(STAGES)
ModelMaker = Callable[..., Qwen2ForCausalLM]
EpisodeMaker = Callable[..., TokenSequence]


@pytest.fixture
def model(make_model: ModelMaker) -> Qwen2ForCausalLM:
    return make_model(layers=5)


@pytest.fixture
def data(episode: EpisodeMaker) -> SequenceList:
    return SequenceList([episode(n, turns=2 + n % 2) for n in range(5)])


def test_one_file_holds_every_sample_and_says_how_it_was_made(model: Qwen2ForCausalLM, data: SequenceList, tmp_path: Path):
    out, done = tmp_path / "s.safetensors", []
    collected = collect_saliency(model, data, SETTINGS, out, part_size=2, on_part=lambda *numbers: done.append(numbers))
    assert done == [(2, 5), (4, 5), (5, 5)]
    assert list(tmp_path.iterdir()) == [out]
    file = safe_open(out, framework="numpy")
    assert {"format", "name", "model", "stages", "loss", "data", "settings"} <= file.metadata().keys()
    assert file.get_tensor("ids").tolist() == [0, 1, 2, 3, 4]
    assert file.get_tensor("lengths").tolist() == [len(sequence) for sequence in data]
    assert np.diff(file.get_tensor("offsets")).tolist() == data.lengths.tolist()
    assert collected.stages == STAGES
    for index in range(5):
        wanted = compute_saliency(model, collate([data[index]], [index]), SETTINGS)[:, 0].numpy()
        sample = collected.sample(index)
        assert np.array_equal(sample.saliency, wanted, equal_nan=True)
        assert np.array_equal(sample.input_ids, data[index].input_ids)
        assert np.array_equal(sample.turns, data[index].turns)
        assert np.array_equal(sample.plans, (data[index].weights == 1) & (data[index].turns >= 1))


def stop_after(parts: int) -> Callable[[int, int], None]:
    def on_part(done: int, of: int) -> None:
        nonlocal parts
        parts -= 1
        if parts == 0:
            raise KeyboardInterrupt

    return on_part


def test_a_killed_run_goes_on_and_ends_in_the_same_file(model: Qwen2ForCausalLM, data: SequenceList, tmp_path: Path):
    whole, parted = tmp_path / "whole.safetensors", tmp_path / "parted.safetensors"
    collect_saliency(model, data, SETTINGS, whole, part_size=2)
    with pytest.raises(KeyboardInterrupt):
        collect_saliency(model, data, SETTINGS, parted, part_size=2, on_part=stop_after(2))
    with pytest.raises(ValueError, match=r"not complete: run .*once more"):
        SaliencySet(parted, identify(model))
    made = {path.name: path.stat().st_mtime_ns for path in parts_dir(parted).iterdir()}
    assert len(made) == 2
    times = {}
    collect_saliency(
        model, data, SETTINGS, parted, part_size=2,
        on_part=lambda *_: times.update({path.name: path.stat().st_mtime_ns for path in parts_dir(parted).iterdir()}),
    )  # fmt: skip
    assert len(times) == 3
    assert made.items() <= times.items()
    assert read_metadata(parted) == read_metadata(whole)
    first, second = load_file(parted), load_file(whole)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name], equal_nan=name == "saliency") for name in first)
    assert not parts_dir(parted).exists()


def test_a_complete_file_is_not_made_again_and_stray_parts_go(model: Qwen2ForCausalLM, data: SequenceList, tmp_path: Path):
    out, done = tmp_path / "s.safetensors", []
    collect_saliency(model, data, SETTINGS, out)
    before = out.stat().st_mtime_ns
    parts_dir(out).mkdir()
    (parts_dir(out) / "part-000000-000005.safetensors").touch()
    collect_saliency(model, data, SETTINGS, out, on_part=lambda *numbers: done.append(numbers))
    assert (out.stat().st_mtime_ns, done) == (before, [(5, 5)])
    assert not parts_dir(out).exists()


def test_some_stages_of_a_file(model: Qwen2ForCausalLM, data: SequenceList, tmp_path: Path):
    out = tmp_path / "s.safetensors"
    whole = collect_saliency(model, data, SaliencySettings((0, 1, 3)), out)
    some = SaliencySet(out, identify(model), (1, 3))
    assert some.stages == (1, 3)
    assert np.array_equal(some[2], whole[2][1:], equal_nan=True)
    with pytest.raises(ValueError, match=r"after layers \[0, 1, 3\], not \[2\]"):
        SaliencySet(out, identify(model), (1, 2))


def test_what_does_not_fit_is_refused(model: Qwen2ForCausalLM, make_model: ModelMaker, data: SequenceList, tmp_path: Path):
    out, text = tmp_path / "s.safetensors", tmp_path / "text.safetensors"
    with pytest.raises(ValueError, match=r"is no file: make one with `erecap saliency"):
        SaliencySet(out, identify(model))
    with pytest.raises(ValueError, match="is a directory: name a file"):
        collect_saliency(model, data, SETTINGS, tmp_path)
    text.write_text("no tensors here")
    with pytest.raises(ValueError, match=r"cannot be read.*make it again with `erecap saliency`"):
        SaliencySet(text, identify(model))
    collect_saliency(model, data, SETTINGS, out)
    other = make_model(layers=5, seed=1)
    for asked in (
        lambda: collect_saliency(model, data, SaliencySettings((2,)), out),
        lambda: collect_saliency(other, data, SETTINGS, out),
    ):
        with pytest.raises(ValueError, match="is of another run"):
            asked()
    with pytest.raises(ValueError, match="name the model that it was made with, or collect saliency for this model"):
        SaliencySet(out, identify(other))
    with pytest.raises(ValueError, match=r"sample=5 is not there: the samples are 0\.\.4"):
        SaliencySet(out, identify(model)).sample(5)


def test_parts_of_another_setting_are_refused(model: Qwen2ForCausalLM, data: SequenceList, tmp_path: Path):
    out = tmp_path / "s.safetensors"
    with pytest.raises(KeyboardInterrupt):
        collect_saliency(model, data, SETTINGS, out, part_size=2, on_part=stop_after(1))
    with pytest.raises(ValueError, match=r"is of another run \(settings"):
        collect_saliency(model, data, SaliencySettings(STAGES, replans=2), out, part_size=2)


def test_episodes_without_a_second_replan_are_refused(model: Qwen2ForCausalLM, tmp_path: Path, episode: EpisodeMaker):
    with pytest.raises(ValueError, match="no token has saliency"):
        collect_saliency(model, SequenceList([episode(0, turns=1)]), SETTINGS, tmp_path / "s.safetensors")
