"""The sessions' anchor: after any turns a session is in the state that the slow masked reference computes from scratch."""

from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from erecap.calibration.thresholds import fit_thresholds
from erecap.engine.decode import DecodeOptions
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import Selector, SelectorContext, make_selector
from erecap.sessions import ReplanSession
from erecap.sessions.reference import SessionReference

FAMILIES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig, "mistral": MistralConfig}
STAGES = PruneSchedule((PruneStage(0, 0.6), PruneStage(1, 0.7), PruneStage(3, 0.5)), head=2, tail_min=3)
HEADER = [5, 6]


@cache
def model_of(family: str, attention: str = "sdpa") -> PreTrainedModel:
    config = FAMILIES[family](
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=64**-0.5,
        tie_word_embeddings=False,
        sliding_window=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval().requires_grad_(False)


@cache
def pruning(model: PreTrainedModel, rule: str, selector: str = "learned") -> tuple[PruneSchedule, Selector | None]:
    """A schedule by the rule ``rule``, the empty one for ``none``, and its selector."""
    if rule == "none":
        return PruneSchedule.none(), None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        pruner = TokenPruner(identify(model), STAGES.layers).requires_grad_(False)
    scorer = make_selector(selector, SelectorContext(STAGES, pruner, seed=3, model=model))
    if rule == "threshold":
        ids = np.random.default_rng(1).integers(3, 320, 200)
        return fit_thresholds(model, [TokenizedPrompt.from_ids(ids)], STAGES, scorer), scorer
    return STAGES.by_rule(rule), scorer


@dataclass(frozen=True)
class Turn:
    """What happens before a prompt, and how the prompt is shown.

    ``change`` edits the messages at the place ``where``; ``window`` newest messages are protected, and single tokens of all with
    probability ``speckle``. ``header`` is the answer's: protected, bare (unprotected) or absent. Then ``answer`` tokens are decoded
    and become a message with the header, of which the last ``altered`` are others than decoded.
    """

    change: str = "grow"
    size: int = 9
    where: int = 0
    window: int = 1
    speckle: float = 0.0
    header: str = "protected"
    answer: int = 3
    altered: int = 0


TURNS = st.builds(
    Turn,
    change=st.sampled_from(["grow", "grow", "grow", "two", "replace", "token", "shorten", "summarise", "merge", "same"]),
    size=st.integers(1, 24),
    where=st.integers(0, 9),
    window=st.integers(0, 3),
    speckle=st.sampled_from([0.0, 0.0, 0.0, 0.3]),
    header=st.sampled_from(["protected", "protected", "protected", "bare", "absent"]),
    answer=st.sampled_from([0, 2, 4]),
    altered=st.sampled_from([0, 0, 0, 1, 2]),
)


class Story:
    """The messages of an episode under way."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(11)
        self.messages = [self.words(6)]

    def words(self, size: int) -> list[int]:
        return self.draw.integers(7, 320, size).tolist()

    def change(self, turn: Turn) -> None:
        place = 1 + turn.where % max(1, len(self.messages) - 1)
        match turn.change:
            case "grow" | "two":
                self.messages += [self.words(turn.size) for _ in range(1 + (turn.change == "two"))]
            case "replace":
                self.messages[place : place + 1] = [self.words(turn.size)]
            case "token" if place < len(self.messages) and self.messages[place]:
                self.messages[place] = [*self.messages[place][:-1], self.words(1)[0]]
            case "shorten":
                self.messages = self.messages[:place]
            case "summarise":
                self.messages[1:place] = [self.words(4)]
            case "merge":
                self.messages[place - 1 : place + 1] = [[*chain.from_iterable(self.messages[place - 1 : place + 1])]]

    def prompt(self, turn: Turn) -> TokenizedPrompt:
        sizes = [len(message) for message in self.messages]
        header = [] if turn.header == "absent" else HEADER
        first = len(sizes) - turn.window
        flags = [number == 0 or number >= first for number in range(len(sizes))]
        protected = np.repeat([*flags, turn.header == "protected"], [*sizes, len(header)])
        ids = np.array([*chain.from_iterable(self.messages), *header], np.int64)
        return TokenizedPrompt(ids, protected | (self.draw.random(len(ids)) < turn.speckle), tuple(np.cumsum(sizes).tolist()))

    def answered(self, tokens: list[int], turn: Turn) -> None:
        kept = len(tokens) - turn.altered
        self.messages.append([*HEADER, *tokens[: max(0, kept)], *self.words(turn.altered), 2, 7])


def assert_same_state(session: ReplanSession, expected: SessionReference) -> None:
    assert [held.tolist() for held in session.kept] == expected.kept
    for layer, held in enumerate(session.kept):
        mine = session._held.cache.store.layers[layer]
        torch.testing.assert_close(mine.keys[0], expected.keys[layer][:, held], atol=1e-4, rtol=0)
        torch.testing.assert_close(mine.values[0], expected.values[layer][:, held], atol=1e-4, rtol=0)


def play(model: PreTrainedModel, schedule: PruneSchedule, selector: Selector | None, turns: list[Turn]) -> None:
    session, expected = ReplanSession(model, schedule, selector), SessionReference(model, schedule, selector)
    story = Story()
    for turn in turns:
        story.change(turn)
        prompt = story.prompt(turn)
        found, logits = session.extend(prompt), expected.extend(prompt)
        assert found.reused_tokens == expected.reused
        torch.testing.assert_close(found.logits, logits, atol=1e-4, rtol=0)
        assert_same_state(session, expected)
        if turn.answer and turn.header == "protected":
            tokens = list(session.plan(DecodeOptions(turn.answer)))
            after = expected.answer(tokens[:-1])
            assert torch.cat([logits, after]).argmax(-1).tolist() == tokens
            assert_same_state(session, expected)
            story.answered(tokens, turn)


WINDOW = [Turn(window=1)] * 4
"""The usual course: each entry is protected until the next one comes."""


@pytest.mark.parametrize("rule", ["chunk_top_k", "threshold", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_growing_history_leaves_the_state_of_the_reference(family, rule):
    model = model_of(family)
    play(model, *pruning(model, rule), [*WINDOW, Turn("replace", where=2), Turn(window=2), Turn("shorten", where=1)])


ANY_TURNS = {
    "family": st.sampled_from(sorted(FAMILIES)),
    "rule": st.sampled_from(["chunk_top_k", "chunk_top_k", "threshold", "none"]),
    "turns": st.lists(TURNS, min_size=2, max_size=5),
}


@settings(max_examples=25, deadline=None)
@given(**ANY_TURNS)
def test_any_turns_leave_the_state_of_the_reference(family, rule, turns):
    model = model_of(family)
    play(model, *pruning(model, rule), turns)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(**ANY_TURNS)
def test_any_of_many_turns_leave_the_state_of_the_reference(family, rule, turns):
    model = model_of(family)
    play(model, *pruning(model, rule), turns)


def reloaded(session: ReplanSession, *made_of: object) -> ReplanSession:
    with TemporaryDirectory() as folder:
        session.save(Path(folder) / "session.safetensors")
        return ReplanSession.load(Path(folder) / "session.safetensors", *made_of)


def assert_alike(one: ReplanSession, other: ReplanSession) -> None:
    assert one.tokens.tolist() == other.tokens.tolist()
    assert [held.tolist() for held in one.kept] == [held.tolist() for held in other.kept]
    for mine, its in zip(one._held.cache.store.layers, other._held.cache.store.layers, strict=True):
        assert torch.equal(mine.keys, its.keys)
        assert torch.equal(mine.values, its.values)


def fail(*_: object) -> None:
    raise InterruptedError


def save_and_go_on(family: str, rule: str, turns: list[Turn], at: int, stop: str) -> None:
    """Saved before an answer, in the middle of one, behind one, or where a call has just failed in a layer."""
    model = model_of(family)
    made_of = model, *pruning(model, rule)
    sessions, story = [ReplanSession(*made_of)], Story()
    for number, turn in enumerate(turns):
        story.change(turn)
        prompt, options = story.prompt(turn), DecodeOptions(turn.answer or 1)
        now = stop if number == at % len(turns) else ""
        if now == "broken":
            hook = model.model.layers[3].register_forward_hook(fail)
            with pytest.raises(InterruptedError):
                sessions[0].extend(prompt)
            hook.remove()
            sessions.append(reloaded(sessions[0], *made_of))
        found = [session.extend(prompt, [9, 8, 7] if now == "drafted" else ()) for session in sessions]
        if now in ("extended", "drafted"):
            sessions.append(reloaded(sessions[0], *made_of))
        started = sessions[0].plan(options)
        if now in ("answering", "cut short"):
            next(started)
            sessions.append(reloaded(sessions[0], *made_of))
        answers = [[] if now == "cut short" else list(session.plan(options)) for session in sessions]
        if now == "answered":
            sessions.append(reloaded(sessions[0], *made_of))
        assert all(torch.equal(made.logits, found[0].logits) and made.layer_tokens == found[0].layer_tokens for made in found)
        assert all(answer == answers[0] for answer in answers)
        for session in sessions[1:]:
            assert_alike(session, sessions[0])
        if turn.header == "protected" and answers[0]:
            story.answered(answers[0], turn)
    assert len(sessions) == 2


ANY_STOP = {
    "at": st.integers(0, 4),
    "stop": st.sampled_from(["broken", "extended", "drafted", "answering", "cut short", "answered"]),
}


@settings(max_examples=12, deadline=None)
@given(**ANY_TURNS, **ANY_STOP)
def test_a_saved_session_goes_on_as_the_other_does(family, rule, turns, at, stop):
    save_and_go_on(family, rule, turns, at, stop)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(**ANY_TURNS, **ANY_STOP)
def test_a_session_saved_anywhere_goes_on_as_the_other_does(family, rule, turns, at, stop):
    save_and_go_on(family, rule, turns, at, stop)


@pytest.mark.parametrize("selector", ["learned", "random", "recency", "key-norm"])
@pytest.mark.parametrize("rule", ["chunk_top_k", "threshold"])
def test_every_selector_that_scores_tokens_alone_serves(rule, selector):
    model = model_of("qwen2")
    play(model, *pruning(model, rule, selector), [Turn(window=0), *WINDOW, Turn("merge", where=1)])


@pytest.mark.parametrize("rule", ["chunk_top_k", "threshold", "none"])
def test_it_agrees_under_eager_attention(rule):
    model = model_of("qwen2", "eager")
    play(model, *pruning(model, rule), [*WINDOW, Turn("replace", size=20, where=1, window=0)])
