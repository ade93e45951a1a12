"""Saliency: the formula, who is credited, padding, files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from erecap.identity import identify
from erecap.training.data import Sequence, SequenceList, collate
from erecap.training.saliency import SaliencySet, collect_saliency, saliency

STAGES = (1, 3)
ModelMaker = Callable[..., Qwen2ForCausalLM]
EpisodeMaker = Callable[..., Sequence]


@pytest.fixture
def model(make_model: ModelMaker) -> Qwen2ForCausalLM:
    return make_model(layers=5)


def test_it_is_gradient_times_hidden_of_the_later_plan_s_loss(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    sequence = episode(0, turns=2)
    batch = collate([sequence])
    got = saliency(model, batch, STAGES)[:, 0]
    with torch.enable_grad():
        embedded = model.model.embed_tokens(batch.input_ids).requires_grad_()
        out = model(inputs_embeds=embedded, output_hidden_states=True, use_cache=False)
        plan = torch.from_numpy(np.flatnonzero((sequence.weights == 1) & (sequence.turns == 1)))
        loss = functional.cross_entropy(out.logits[0, plan - 1], batch.input_ids[0, plan])
        hidden = [out.hidden_states[stage + 1] for stage in STAGES]
        wanted = [(g * h).sum(-1).abs()[0] for g, h in zip(torch.autograd.grad(loss, hidden), hidden, strict=True)]
    credited = torch.from_numpy(sequence.turns == 0)
    torch.testing.assert_close(got[:, credited], torch.stack(wanted)[:, credited].detach(), atol=1e-6, rtol=1e-4)
    assert got[:, ~credited].isnan().all()


def test_padding_and_neighbours_change_nothing_and_get_nothing(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    short, long = episode(1, turns=2), episode(2, turns=4)
    both = saliency(model, collate([short, long]), STAGES)
    alone = saliency(model, collate([short], [0]), STAGES)
    torch.testing.assert_close(both[:, :1, : len(short)], alone, equal_nan=True, atol=1e-6, rtol=1e-4)
    assert both[:, 0, len(short) :].isnan().all()


def test_other_tokens_and_untrained_plans_are_not_targets(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    sequence = episode(3, turns=2)
    weights = np.where(sequence.weights == 1, sequence.weights, np.float32(0.9))
    changed = Sequence(sequence.input_ids, weights, sequence.turns)
    first, second = (saliency(model, collate([s]), STAGES) for s in (sequence, changed))
    torch.testing.assert_close(first, second, equal_nan=True)


def test_the_model_is_left_as_it_was(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    saliency(model, collate([episode(0)]), STAGES)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_collected_shards_are_read_back_and_not_made_again(model: Qwen2ForCausalLM, tmp_path: Path, episode: EpisodeMaker):
    data = SequenceList([episode(n) for n in range(5)])
    done: list[tuple[int, int]] = []
    collected = collect_saliency(model, data, STAGES, tmp_path, shard_size=2, on_shard=lambda n, of: done.append((n, of)))
    assert done == [(2, 5), (4, 5), (5, 5)]
    wanted = saliency(model, collate([data[4]], [4]), STAGES)[:, 0].numpy()
    assert np.array_equal(collected[4], wanted, equal_nan=True)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "saliency-00001.safetensors").unlink()
    again = collect_saliency(model, data, STAGES, tmp_path, shard_size=2)
    assert np.array_equal(again[2], collected[2], equal_nan=True)
    kept = tmp_path / "saliency-00000.safetensors"
    assert kept.stat().st_mtime_ns == times[kept]


def test_shards_of_another_model_or_setting_are_refused(
    model: Qwen2ForCausalLM, make_model: ModelMaker, tmp_path: Path, episode: EpisodeMaker
):
    data = SequenceList([episode(n) for n in range(2)])
    collect_saliency(model, data, STAGES, tmp_path)
    with pytest.raises(ValueError, match="is of another run"):
        collect_saliency(model, data, (2,), tmp_path)
    with pytest.raises(ValueError, match="collect saliency for this model"):
        SaliencySet(tmp_path, identify(make_model(layers=5, seed=1)))


def test_episodes_without_a_second_replan_are_refused(model: Qwen2ForCausalLM, tmp_path: Path, episode: EpisodeMaker):
    with pytest.raises(ValueError, match="no token has saliency"):
        collect_saliency(model, SequenceList([episode(0, turns=1)]), STAGES, tmp_path)


def test_stages_must_be_layers(model: Qwen2ForCausalLM, episode: EpisodeMaker):
    with pytest.raises(ValueError, match=r"at least one layer of 0\.\.4"):
        saliency(model, collate([episode(0)]), (5,))
