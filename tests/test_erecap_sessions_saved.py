"""Sessions in files: what is refused, what a failed write leaves, where what is loaded lies."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from erecap.engine.decode import DecodeOptions
from erecap.models.files import FileError
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import RandomSelector, RecencySelector, SelectorContext, make_selector
from erecap.sessions import ReplanSession, SessionMismatchError

STAGES = PruneSchedule((PruneStage(0, 0.6), PruneStage(2, 0.5)), head=2, tail_min=3).by_rule("chunk_top_k")


def prompt_of(messages: int) -> TokenizedPrompt:
    ids = np.random.default_rng(0).integers(7, 320, 20 * messages + 2)
    return TokenizedPrompt(ids, np.arange(len(ids)) >= len(ids) - 22, tuple(range(20, len(ids), 20)))


def selector_of(model, seed: int = 7):
    torch.manual_seed(seed)
    pruner = TokenPruner(identify(model), STAGES.layers).requires_grad_(False)
    return make_selector("learned", SelectorContext(STAGES, pruner, model=model))


@pytest.fixture
def model(make_model):
    return make_model(4, 4, 2)


@pytest.fixture
def saved(model, tmp_path: Path) -> Path:
    session = ReplanSession(model, STAGES, selector_of(model))
    session.extend(prompt_of(4))
    session.save(tmp_path / "new" / "session.safetensors")
    return tmp_path / "new" / "session.safetensors"


def test_what_is_loaded_lies_in_buffers_with_room(model, saved):
    """So that the next tokens move nothing."""
    session = ReplanSession.load(saved, model, STAGES, selector_of(model))
    places = [layer.keys.data_ptr() for layer in session._held.cache.store.layers]
    list(session.plan(DecodeOptions(20)))
    assert [layer.keys.data_ptr() for layer in session._held.cache.store.layers] == places


def test_what_is_loaded_does_not_lie_in_the_file(model, saved):
    session = ReplanSession.load(saved, model, STAGES, selector_of(model))
    tokens = session.tokens.tolist()
    saved.write_bytes(bytes(saved.stat().st_size))
    assert session.tokens.tolist() == tokens
    session.extend(prompt_of(5))


def test_an_empty_session_is_saved_too(model, tmp_path):
    ReplanSession(model).save(tmp_path / "session")
    session = ReplanSession.load(tmp_path / "session", model)
    assert len(session.tokens) == 0
    with pytest.raises(ValueError, match="call extend"):
        session.plan(DecodeOptions(1))
    assert torch.equal(session.extend(prompt_of(2)).logits, ReplanSession(model).extend(prompt_of(2)).logits)


def test_a_session_in_bfloat16_is_saved_as_it_is(make_model, tmp_path):
    model = type(make_model(4, 4, 2))(make_model(4, 4, 2).config).to(torch.bfloat16).eval().requires_grad_(False)
    selector = selector_of(model)
    session = ReplanSession(model, STAGES, selector)
    session.extend(prompt_of(3))
    session.save(tmp_path / "session")
    again = ReplanSession.load(tmp_path / "session", model, STAGES, selector)
    assert again._held.cache.store.layers[1].keys.dtype == torch.bfloat16
    assert torch.equal(again.extend(prompt_of(4)).logits, session.extend(prompt_of(4)).logits)
    with pytest.raises(SessionMismatchError, match="the dtype bfloat16, and this session has float32"):
        ReplanSession.load(tmp_path / "session", make_model(4, 4, 2), STAGES, selector_of(make_model(4, 4, 2)))


@pytest.mark.parametrize(
    ("schedule", "seed", "message"),
    [
        (replace(STAGES, head=3), 7, "saved with the schedule .*head=2.* has .*head=3.*with the schedule of then"),
        (STAGES.by_rule("threshold", (0.1, 0.2)), 7, "saved with the schedule .*chunk_top_k.* has .*threshold"),
        (PruneSchedule.none(), 7, "saved with the schedule"),
        (STAGES, 8, "saved with the selector learned, weights .* has learned, weights"),
    ],
)
def test_another_rule_or_pruner_is_refused(model, saved, schedule, seed, message):
    with pytest.raises(SessionMismatchError, match=message):
        ReplanSession.load(saved, model, schedule, selector_of(model, seed))


def test_another_model_is_refused(make_model, model, saved):
    other = make_model(4, 4, 2, 1)
    with pytest.raises(SessionMismatchError, match=r"saved with the model 4 layers of width 64, checksum .* has 4 layers"):
        ReplanSession.load(saved, other, STAGES, selector_of(other))
    turned = type(model)(type(model.config)(**model.config.to_dict() | {"rms_norm_eps": 1e-3})).eval().requires_grad_(False)
    turned.load_state_dict(model.state_dict())
    with pytest.raises(SessionMismatchError, match="saved with the config"):
        ReplanSession.load(saved, turned, STAGES, selector_of(model))


@pytest.mark.parametrize("selector", [RandomSelector(3), RecencySelector()])
def test_scores_without_a_pruner_have_a_name(model, saved, selector):
    with pytest.raises(SessionMismatchError, match=f"this session has {selector.identity}: load it with the selector of then"):
        ReplanSession.load(saved, model, STAGES, selector)
    assert RandomSelector(3).identity != RandomSelector(4).identity


def test_a_selector_without_a_name_is_refused_and_nothing_is_written(model, tmp_path):
    class Mine:
        tokenwise = True

        def score(self, hidden, positions, stage_index, lengths):
            return -positions.float()

    session = ReplanSession(model, STAGES, Mine())
    session.extend(prompt_of(2))
    with pytest.raises(ValueError, match=r"Mine does not say which scores it gives.*attribute identity"):
        session.save(tmp_path / "session")
    assert not list(tmp_path.iterdir())
    assert len(list(session.plan(DecodeOptions(2)))) == 2


def test_a_file_that_is_no_session_or_of_another_format_is_refused(model, saved):
    tensors = load_file(saved)
    save_file(tensors, saved)
    with pytest.raises(FileError, match=r"session\.safetensors holds no session.*name a file that ReplanSession\.save wrote"):
        ReplanSession.load(saved, model, STAGES, selector_of(model))
    save_file(tensors, saved, {"erecap session format": "0"})
    with pytest.raises(SessionMismatchError, match="format 0, and this version of erecap reads 1: begin a new session"):
        ReplanSession.load(saved, model, STAGES, selector_of(model))
    saved.unlink()
    with pytest.raises(FileError, match=r"session\.safetensors cannot be read .*: copy it again, or begin a new session"):
        ReplanSession.load(saved, model, STAGES, selector_of(model))


def test_a_write_that_fails_leaves_the_old_file(model, saved, monkeypatch):
    before = saved.read_bytes()
    session = ReplanSession.load(saved, model, STAGES, selector_of(model))
    session.extend(prompt_of(5))

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("erecap.sessions.saved.save_file", full)
    with pytest.raises(FileError, match="No space left on device"):
        session.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert len(list(session.plan(DecodeOptions(3)))) == 3


def test_adapters_and_divided_models_are_refused(model, saved, monkeypatch):
    monkeypatch.setattr(model, "named_parameters", lambda: iter([("layers.0.lora_A.weight", torch.zeros(1))]))
    with pytest.raises(ValueError, match=r"LoRA adapters.*merge"):
        ReplanSession(model).save(saved)
    monkeypatch.undo()
    session = ReplanSession(model)
    session._parts = replace(session._parts, ranks=2)
    with pytest.raises(ValueError, match="divided among 2 processes"):
        session.save(saved)


def test_the_header_of_a_file_says_what_it_is(saved):
    """Anyone can read it, without torch."""
    content = saved.read_bytes()
    said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert said["erecap session format"] == "1"
    assert said["dtype"] == "float32"
    assert said["schedule"] == repr(STAGES)
