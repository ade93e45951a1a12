"""Answers of several sessions in one batch: those that each gives alone, and the same state behind them."""

from itertools import chain

import numpy as np
import pytest
import torch

from erecap.engine.decode import DecodeOptions
from erecap.models.architecture import ContextLengthError
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import SelectorContext, make_selector
from erecap.sessions import ReplanSession
from erecap.sessions.together import plan_together

STAGES = PruneSchedule((PruneStage(0, 0.6), PruneStage(2, 0.5)), head=2, tail_min=3)
HEADER = [5, 6]
PRUNED = STAGES.by_rule("chunk_top_k")


def words(size: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(7, 320, size).tolist()


def prompt_of(messages: list[list[int]]) -> TokenizedPrompt:
    sizes = [len(message) for message in messages]
    protected = np.repeat([number in (0, len(sizes) - 1) for number in range(len(sizes))] + [True], [*sizes, len(HEADER)])
    return TokenizedPrompt(np.array([*chain.from_iterable(messages), *HEADER]), protected, tuple(np.cumsum(sizes).tolist()))


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(4, 4, 2)


def assert_alike(one: ReplanSession, other: ReplanSession) -> None:
    assert one.tokens.tolist() == other.tokens.tolist()
    assert [held.tolist() for held in one.kept] == [held.tolist() for held in other.kept]
    for mine, its in zip(one._held.cache.store.layers, other._held.cache.store.layers, strict=True):
        torch.testing.assert_close(mine.keys, its.keys, atol=1e-4, rtol=0)
        torch.testing.assert_close(mine.values, its.values, atol=1e-4, rtol=0)
    torch.testing.assert_close(one._held.verdicts.scores, other._held.verdicts.scores, atol=1e-4, rtol=0)


WAYS = {
    "greedy": DecodeOptions(9),
    "sampled": DecodeOptions(9, temperature=1.0, seed=2),
    "past the end": DecodeOptions(9, ignore_eos=True),
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("schedule", [PruneSchedule.none(), PRUNED, STAGES.by_rule("threshold", (-1.0, -0.9))])
def test_sessions_answer_together_as_each_does_alone(model, schedule, options):
    """Over turns, in each of which an answer becomes part of the prompt, with rows that leave at different steps."""
    selector = make_selector("key-norm", SelectorContext(STAGES, None, model=model)) if schedule.stages else None
    alone, batched = ([ReplanSession(model, schedule, selector) for _ in range(4)] for _ in range(2))
    stories = [[words(20, 0), words(15 + 30 * agent, agent)] for agent in range(4)]
    forms = [None, lambda answer: [len(answer)], None, None]
    ends = frozenset() if options.temperature else frozenset(range(60, 120))  # rows that draw alike end at once
    counts = set[int]()
    hook = model.get_input_embeddings().register_forward_hook(lambda _, ids, out: counts.add(out.shape[0]))
    for turn in range(3):
        expected = list[list[int]]()
        for agent, story in enumerate(stories):
            alone[agent].extend(prompt_of(story))
            batched[agent].extend(prompt_of(story))
            own = DecodeOptions(9, options.temperature, options.seed, ends, options.ignore_eos, forms[agent])
            expected.append(list(alone[agent].plan(own)))
        together = DecodeOptions(9, options.temperature, options.seed, ends, options.ignore_eos, tuple(forms))
        steps = list[tuple[int | None, ...]]()
        plan_together(model, batched, schedule, selector, together, steps.append)
        assert [[token for token in row if token is not None] for row in zip(*steps, strict=True)] == expected
        for agent, story in enumerate(stories):
            assert_alike(batched[agent], alone[agent])
            story += [[*HEADER, *expected[agent]], words(9 + agent, 10 * turn + agent)]
    hook.remove()
    assert max(counts) == 4
    assert options.ignore_eos or options.temperature or len(counts) > 2


def test_an_answer_begun_together_can_be_asked_for_again(model):
    sessions = [ReplanSession(model), ReplanSession(model)]
    for number, session in enumerate(sessions):
        session.extend(prompt_of([words(20, 0), words(9, number)]))
    steps = list[tuple[int | None, ...]]()
    plan_together(model, sessions, PruneSchedule.none(), None, DecodeOptions(5), steps.append)
    assert [list(session.plan(DecodeOptions(5))) for session in sessions] == [list(row) for row in zip(*steps, strict=True)]


def test_an_answer_that_breaks_off_leaves_the_prompts(model):
    sessions = [ReplanSession(model), ReplanSession(model)]
    prompts = [prompt_of([words(20, 0), words(9, number)]) for number in range(2)]
    for session, prompt in zip(sessions, prompts, strict=True):
        session.extend(prompt)

    def stop(tokens: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        plan_together(model, sessions, PruneSchedule.none(), None, DecodeOptions(5), stop)
    assert [session.tokens.tolist() for session in sessions] == [prompt.input_ids.tolist() for prompt in prompts]
    assert len(list(sessions[1].plan(DecodeOptions(3)))) == 3


def test_a_session_without_a_prompt_and_an_answer_too_long_are_refused(model):
    with pytest.raises(ValueError, match="call extend"):
        plan_together(model, [ReplanSession(model)], PruneSchedule.none(), None, DecodeOptions(5), print)
    session = ReplanSession(model)
    session.extend(prompt_of([words(20, 0)]))
    with pytest.raises(ContextLengthError):
        plan_together(model, [session], PruneSchedule.none(), None, DecodeOptions(2000), print)
