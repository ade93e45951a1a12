"""The store of sessions: each agent gets what it gets alone, whatever the others do, what was evicted, and what broke off."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from erecap.calibration.thresholds import fit_thresholds
from erecap.engine.decode import DecodeOptions
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import Selector, SelectorContext, make_selector
from erecap.sessions import Extension, ReplanSession
from erecap.sessions import store as store_module
from erecap.sessions.store import SessionStore, goes_on_with

STAGES = PruneSchedule((PruneStage(0, 0.6), PruneStage(2, 0.5)), head=2, tail_min=3)
RULES = ("none", "chunk_top_k", "threshold")
HEADER = [5, 6]
OPTIONS = DecodeOptions(4)
SYSTEM = 60
"""Tokens of the system text, which all agents share: more than half of an agent's first prompt."""


def words(size: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(7, 320, size).tolist()


def prompt_of(messages: Sequence[list[int]]) -> TokenizedPrompt:
    """With the first message, the newest one and the header protected."""
    sizes, newest = [len(message) for message in messages], len(messages) - 1
    protected = np.repeat([number in (0, newest) for number in range(len(sizes))] + [True], [*sizes, len(HEADER)])
    return TokenizedPrompt(np.array([*chain.from_iterable(messages), *HEADER]), protected, tuple(np.cumsum(sizes).tolist()))


@dataclass
class Answered:
    """What an agent was given at a turn."""

    answer: list[int]
    kept: list[list[int]]
    made: Extension

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answered) and (self.answer, self.kept) == (other.answer, other.kept)


class Agent:
    """An agent whose history grows by the answer and an observation at each turn, and is never rewritten."""

    def __init__(self, number: int, extend: Callable[[TokenizedPrompt], tuple[ReplanSession, Extension]]) -> None:
        self.number, self.extend, self.messages, self.given = number, extend, [words(SYSTEM, 0)], list[Answered]()

    def prompt(self) -> TokenizedPrompt:
        observation = words(11 + 3 * len(self.given), 100 * self.number + len(self.given))
        return prompt_of([*self.messages, observation])

    def turn(self) -> None:
        prompt = self.prompt()
        session, made = self.extend(prompt)
        kept = [held.tolist() for held in session.kept]
        answer = list(session.plan(OPTIONS))
        self.given.append(Answered(answer, kept, made))
        self.messages += [prompt.input_ids[sum(map(len, self.messages)) : -len(HEADER)].tolist(), [*HEADER, *answer, 2]]


def taken_alone(session: ReplanSession) -> Callable[[TokenizedPrompt], tuple[ReplanSession, Extension]]:
    return lambda prompt: (session, session.extend(prompt))


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(4, 4, 2)


@pytest.fixture(scope="module")
def makers(model) -> dict[str, Callable[[], ReplanSession]]:
    """Makers of empty sessions, by rule."""
    torch.manual_seed(7)
    pruner = TokenPruner(identify(model), STAGES.layers).requires_grad_(False)
    scorer: Selector = make_selector("learned", SelectorContext(STAGES, pruner, seed=3, model=model))
    fitted = fit_thresholds(model, [TokenizedPrompt.from_ids(words(200, 5))], STAGES, scorer)
    return {
        "none": partial(ReplanSession, model),
        "chunk_top_k": partial(ReplanSession, model, STAGES.by_rule("chunk_top_k"), scorer),
        "threshold": partial(ReplanSession, model, PruneSchedule(fitted.stages, 2, 3, 0.0, "threshold"), scorer),
    }


@pytest.fixture(scope="module")
def alone(makers) -> Callable[[str, int], list[Answered]]:
    """``alone(rule, number)``: five turns of an agent that has a session for itself."""
    known: dict[tuple[str, int], list[Answered]] = {}

    def play(rule: str, number: int) -> list[Answered]:
        if (rule, number) not in known:
            agent = Agent(number, taken_alone(makers[rule]()))
            for _ in range(5):
                agent.turn()
            known[rule, number] = agent.given
        return known[rule, number]

    return play


def store_of(makers, rule: str, budget: int = 2**30) -> SessionStore:
    return SessionStore(makers[rule], budget, by_turns=rule != "none")


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=9), st.sampled_from([1, 2**30]))
@example([1, 2, 1, 3, 2, 1, 1], 1)
@example([1, 2, 1, 2, 1, 2, 1, 2], 2**30)
def test_interleaved_agents_get_what_they_get_alone(makers, alone, rule, order, budget):
    store = store_of(makers, rule, budget)
    agents = {number: Agent(number, store.extend) for number in (1, 2, 3)}
    for number in order:
        if len(agents[number].given) < 5:
            agents[number].turn()
            assert agents[number].given[-1] == alone(rule, number)[len(agents[number].given) - 1]


@pytest.mark.parametrize("rule", RULES)
def test_what_is_evicted_at_every_turn_is_rebuilt(makers, alone, rule):
    store = store_of(makers, rule, 1)
    agents = [Agent(number, store.extend) for number in (1, 2)]
    for _ in range(5):
        for agent in agents:
            agent.turn()
            assert len(store) == 1
            assert agent.given[-1].made.reused_tokens == 0 or rule == "none"
    assert [agent.given for agent in agents] == [alone(rule, 1), alone(rule, 2)]
    if rule != "none":  # there, agents take each other's session while the system text is more than half of it
        assert (store.evicted, store.rebuilt) == (9, 8)


@pytest.mark.parametrize("rule", RULES)
def test_a_pruned_session_is_pruned_and_reused(makers, alone, rule):
    turns = alone(rule, 1)
    assert (len(turns[-1].kept[-1]) < len(turns[-1].kept[0])) == (rule != "none")
    reused = [turn.made.reused_tokens for turn in turns]
    assert reused == sorted(set(reused))
    assert all(turn.made.prompt_tokens - turn.made.reused_tokens < 40 for turn in turns[1:])


@pytest.mark.parametrize("rule", RULES)
def test_a_prompt_that_has_little_in_common_gets_a_session_of_its_own(makers, rule):
    store = store_of(makers, rule)
    first, _ = store.extend(prompt_of([words(SYSTEM, 0), words(80, 1)]))
    other, made = store.extend(prompt_of([words(SYSTEM, 0), words(80, 2)]))
    assert other is not first
    assert (made.reused_tokens, len(store)) == (0, 2)
    assert store.extend(prompt_of([words(SYSTEM, 0), words(80, 1), words(9, 3)]))[0] is first


def test_a_pruned_session_is_not_taken_over_by_an_agent_that_shares_the_system_text(makers):
    prompts = [prompt_of([words(SYSTEM, 0), words(10, number)]) for number in (1, 2)]
    taken_over, kept_apart = store_of(makers, "none"), store_of(makers, "chunk_top_k")
    assert taken_over.extend(prompts[0])[0] is taken_over.extend(prompts[1])[0]
    assert kept_apart.extend(prompts[0])[0] is not kept_apart.extend(prompts[1])[0]


@pytest.mark.parametrize("rule", RULES)
def test_several_evicted_sessions_are_told_apart(makers, rule):
    store = store_of(makers, rule, 1)
    prompts = [prompt_of([words(20, number), words(30, number)]) for number in (1, 2, 3)]
    for prompt in [*prompts, *prompts]:
        found, fresh = store.extend(prompt)[1], makers[rule]().extend(prompt)
        torch.testing.assert_close(found.logits, fresh.logits, atol=1e-4, rtol=0)
    assert store.rebuilt == 3


class BrokenLayerError(Exception):
    pass


@contextmanager
def broken(model, layer: int, call: int = 0) -> Iterator[None]:
    """A layer that fails once it has been run ``call`` times, after it has appended to its cache."""
    left = [call]

    def fail(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise BrokenLayerError

    hook = model.model.layers[layer].register_forward_hook(fail)
    yield
    hook.remove()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("call", range(4))
def test_after_an_error_an_agent_gets_what_it_gets_alone(model, makers, alone, rule, layer, call):
    """With ``call`` the error comes in ``extend`` or in ``plan``, or in the first or second turn of a session that is rebuilt."""
    store = store_of(makers, rule, 1)
    agents = [Agent(number, store.extend) for number in (1, 2)]
    for agent in [*agents, agents[0]]:
        agent.turn()
    for agent in agents:  # the first is held, the second is evicted
        with broken(model, layer, call), pytest.raises(BrokenLayerError):
            agent.turn()
        for _ in range(2):
            agent.turn()
    assert [agent.given for agent in agents] == [alone(rule, 1)[:4], alone(rule, 2)[:3]]


@pytest.mark.parametrize("rule", RULES)
def test_a_session_that_could_not_begin_leaves_nothing(model, makers, rule):
    store = store_of(makers, rule)
    with broken(model, 2), pytest.raises(BrokenLayerError):
        store.extend(prompt_of([words(9, 1)]))
    assert (len(store), store.kv_bytes, store._kept) == (0, 0, [])


@pytest.mark.parametrize("rule", RULES)
def test_held_bytes_stay_within_the_budget(makers, rule):
    budget = 3 * makers[rule]().extend(prompt_of([words(40, 0), words(60, 1)])).kv_bytes
    store = store_of(makers, rule, budget)
    for number in range(10):
        store.extend(prompt_of([words(40, number), words(60, number)]))
        assert 0 < store.kv_bytes <= budget
    assert (len(store), store.evicted) == (3, 7)


def turns_of(store: SessionStore) -> int:
    return sum(len(kept.turns) for kept in store._kept)


@pytest.mark.parametrize("rule", ["none", "chunk_top_k"])
def test_after_many_episodes_and_a_reset_nothing_is_held(makers, rule):
    store = store_of(makers, rule)
    for number in range(100):
        agent = Agent(number, store.extend)
        agent.turn()
        if number % 10 == 0:
            agent.turn()
            assert store.kv_bytes > 0
            store.reset()
            assert (store.kv_bytes, len(store), turns_of(store)) == (0, 0, 0)
    store.reset()
    assert (store.kv_bytes, len(store), turns_of(store)) == (0, 0, 0)


def test_without_a_reset_the_oldest_sessions_are_forgotten(makers, monkeypatch):
    monkeypatch.setattr(store_module, "_REMEMBERED", 5)
    store = store_of(makers, "none", 1)
    for number in range(8):
        store.extend(prompt_of([words(4, number)]))
    assert len(store._kept) == turns_of(store) == 5
    assert len(store) == 1


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_that_holds_nothing_is_refused(makers, budget):
    with pytest.raises(ValueError, match=f"{budget} bytes.*positive"):
        store_of(makers, "none", budget)


@pytest.mark.parametrize(
    ("held", "prompt", "found"),
    [
        ([], [1], None),
        ([[1, 2]], [1], None),  # half of what is held is not more than half
        ([[1, 2, 3]], [1, 2], 0),
        ([[1, 2, 3], [1, 2, 3, 4]], [1, 2, 3, 4, 5], 1),
        ([[1, 2, 3], [1, 2, 3]], [1, 2, 3], 0),
        ([[2, 2], []], [1, 2], None),
    ],
)
def test_a_prompt_goes_on_with_the_session_that_it_shares_most_with(held, prompt, found):
    assert goes_on_with([np.array(row, np.int64) for row in held], np.array(prompt, np.int64)) == found
