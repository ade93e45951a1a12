"""Drafts: where they come from, and that they change no answer, whatever they propose."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.engine.decode import DecodeOptions
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import SelectorContext, make_selector
from erecap.sessions import ReplanSession
from erecap.sessions.drafts import CopyDraft, FirstDraft, ForcedDraft, SuffixDraft
from erecap.sessions.verification import Verified

STAGES = PruneSchedule((PruneStage(0, 0.6), PruneStage(2, 0.5)), head=2, tail_min=3).by_rule("chunk_top_k")
HEADER = [5, 6]
TEXT = np.array([1, 2, 3, 4, 5, 3, 4, 9], np.int64)
tokens = st.lists(st.integers(0, 3), max_size=12)


def prompt_of(messages: list[list[int]]) -> TokenizedPrompt:
    sizes = [len(message) for message in messages]
    protected = np.repeat([number in (0, len(sizes) - 1) for number in range(len(sizes))] + [True], [*sizes, len(HEADER)])
    return TokenizedPrompt(np.concatenate([*map(np.asarray, messages), HEADER]), protected, tuple(np.cumsum(sizes).tolist()))


def words(size: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(7, 320, size).tolist()


LINES = [40, 1, 2, 3, 0, 1, 4, 5, 0, 6, 2, 3, 0, 7, 99]
"""Four lines, the first with a number (40) and the last with an end (99); 0 ends a line."""


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([], LINES),
        (LINES[:2], LINES[2:]),
        (LINES, []),
        ([40, 1, 2, 8], [0, 1, 4, 5, 0, 6, 2, 8, 0, 7, 99]),  # 8 stands for 3 behind 2, here and further on
        ([40, 9], []),
        ([40, 9, 0], [1, 2, 3, 0, 1, 4, 5, 0, 6, 2, 3, 0, 7, 99]),  # another line: the text waits, and its number was written
        ([40, 9, 5], [0, 1, 2, 3, 0, 1, 4, 5, 0, 6, 2, 3, 0, 7, 99]),  # 5 ends a line in the text
        ([40, 9, 0, 1, 4, 5], [0, 6, 2, 3, 0, 7, 99]),  # two tokens of a line further on
        ([40, 9, 0, 9, 0], [1, 2, 3, 0, 1, 4, 5, 0, 6, 2, 3, 0, 7, 99]),
        ([40, 9, 0, 9, 0, 9, 0], []),  # the line that waits was refused too often
        ([40, 9, 0, 9, 0, 9, 0, 6, 2], [3, 0, 7, 99]),
    ],
)
def test_a_text_is_followed_through_changes(answer: list[int], expected: list[int]) -> None:
    source = CopyDraft(np.array(LINES, np.int64), frozenset({0}))
    assert source.propose(answer, 99) == expected
    assert source.propose(answer, 2) == expected[:2]


def test_a_line_of_a_text_without_numbers_waits_as_long() -> None:
    source = CopyDraft(np.array(LINES[1:], np.int64), frozenset({0}))
    assert source.propose([9, 0, 9, 0], 2) == [1, 2]
    assert source.propose([9, 0, 9, 0, 9, 0], 2) == []


def test_the_context_says_how_it_went_on_before() -> None:
    context = SuffixDraft(np.array([8, 1, 2, 3, 7, 7, 1, 2, 3, 5, 1], np.int64))
    assert context.propose([2, 3], 2) == [5, 1], "the last of two places with three tokens alike"
    assert context.propose([2, 3], 9) == [5, 1, 2, 3], "at most twice as many as the match has, as far as they go"
    assert context.propose([9], 2) == []
    assert SuffixDraft(np.zeros(0, np.int64)).propose([], 4) == []
    assert FirstDraft((SuffixDraft(TEXT), CopyDraft(TEXT))).propose([1], 1) == [2]
    assert FirstDraft(()).propose([1], 1) == []
    assert FirstDraft((CopyDraft(TEXT),), frozenset({3, 9})).propose([1], 9) == [2, 3], "nothing is drafted behind an end"


def test_what_is_forced_comes_first_and_another_source_goes_on_behind_it() -> None:
    forced = {0: [1, 2, 3], 3: [], 4: [9, 7]}
    source = ForcedDraft(lambda answer: forced.get(len(answer), ()), CopyDraft(TEXT), frozenset({9}))
    assert source.propose([], 5) == [1, 2, 3, 4, 5]
    assert source.propose([], 2) == [1, 2]
    assert source.propose([], 0) == []
    assert source.propose([1, 2, 3], 2) == [4, 5], "nothing is forced here"
    assert source.propose([1, 2, 3, 4], 4) == [9], "nothing comes behind an end"
    assert ForcedDraft(lambda answer: forced.get(len(answer), ())).propose([], 9) == [1, 2, 3]
    assert ForcedDraft(lambda answer: (), FirstDraft((SuffixDraft(TEXT), CopyDraft(TEXT)))).propose([1], 1) == [2]


@settings(max_examples=200, deadline=None)
@given(text=tokens, answer=tokens, most=st.integers(0, 5))
def test_a_draft_has_the_tokens_of_its_text(text: list[int], answer: list[int], most: int) -> None:
    for source in (CopyDraft(np.array(text, np.int64), frozenset({1})), SuffixDraft(np.array(text, np.int64))):
        found = source.propose(answer, most)
        assert len(found) <= most
        assert {*found} <= {*text, *answer}
    assert CopyDraft(np.array(text, np.int64)).propose(text[:most], len(text)) == text[most:]


class Scripted:
    """A drafter that proposes what it was told, one list after the other."""

    def __init__(self, proposals: list[list[int]]) -> None:
        self.proposals = list(proposals)

    def propose(self, answer: list[int], most: int) -> list[int]:
        return self.proposals.pop(0)[:most] if self.proposals else []


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(4, 4, 2)


def sessions(model, pruned: bool) -> tuple[ReplanSession, ReplanSession]:
    if not pruned:
        return ReplanSession(model), ReplanSession(model)
    selector = make_selector("key-norm", SelectorContext(STAGES, None, seed=3, model=model))
    return ReplanSession(model, STAGES, selector), ReplanSession(model, STAGES, selector)


@pytest.mark.parametrize("pruned", [False, True])
def test_no_draft_changes_an_answer_nor_what_is_held(model, pruned: bool) -> None:
    """Right drafts, wrong ones, and such that go wrong in the middle, over turns of which each goes on with the answer before."""
    plain, drafted = sessions(model, pruned)
    messages, passes = [words(30, 0), words(25, 1)], list[Verified]()
    for turn in range(8):
        prompt, options = prompt_of(messages), DecodeOptions(12, eos_ids=frozenset({321}))
        plain.extend(prompt)
        expected = list(plain.plan(options))
        guess = [11 if turn % 2 and place == 2 else token for place, token in enumerate(expected)]
        first, rest = guess[:turn], [guess[turn + 1 :], words(5, turn), expected[9:]]
        extension = drafted.extend(prompt, first)
        assert extension.layer_tokens == plain.extend(prompt).layer_tokens
        assert list(drafted.plan(options, Scripted(rest), passes.append)) == expected
        list(plain.plan(options))
        assert drafted.tokens.tolist() == plain.tokens.tolist()
        assert [kept.tolist() for kept in drafted.kept] == [kept.tolist() for kept in plain.kept]
        assert drafted.kv_bytes == plain.kv_bytes
        messages += [expected, words(20, 2 + turn)]
    assert any(one.accepted == one.drafted > 2 for one in passes)
    assert any(0 < one.accepted < one.drafted for one in passes)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_draft_gives_the_same_answer(model, data: st.DataObject) -> None:
    plain, drafted = sessions(model, data.draw(st.booleans()))
    prompt, banned = prompt_of([words(20, 5), words(12, 6)]), data.draw(st.sampled_from([None, 3]))
    plain.extend(prompt)
    ban = None if banned is None else lambda answer: [expected[len(answer)]] if len(answer) == banned else []
    expected = list(plain.plan(DecodeOptions(10)))
    options = DecodeOptions(10, ban=ban, eos_ids=frozenset({expected[data.draw(st.integers(4, 9))]}))
    plain.extend(prompt)
    wanted = list(plain.plan(options))
    pieces = st.lists(st.sampled_from([*expected, 9]), max_size=6) | st.integers(0, 9).map(lambda k: wanted[k:])
    drafted.extend(prompt, data.draw(pieces))
    assert list(drafted.plan(options, Scripted(data.draw(st.lists(pieces, max_size=5))))) == wanted


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_forced_tokens_are_written_in_fewer_passes_and_change_no_answer(model, data: st.DataObject) -> None:
    """A grammar that forces pieces of the answer, told the truth and something else, in front of another source."""
    plain, drafted = sessions(model, data.draw(st.booleans()))
    prompt, options, passes = prompt_of([words(20, 5), words(12, 6)]), DecodeOptions(12), list[Verified]()
    plain.extend(prompt)
    expected = list(plain.plan(options))
    sizes = data.draw(st.dictionaries(st.integers(0, 11), st.integers(1, 6), max_size=6))
    wrong = data.draw(st.integers(0, 11))

    def forced(answer: list[int]) -> list[int]:
        place = len(answer)
        return [token + (at == wrong) for at, token in enumerate(expected)][place : place + sizes.get(place, 0)]

    source = ForcedDraft(
        forced, data.draw(st.sampled_from([None, SuffixDraft(prompt.input_ids), CopyDraft(np.array(expected[3:]))]))
    )
    drafted.extend(prompt, source.propose([], 8))
    assert list(drafted.plan(options, source, passes.append)) == expected
    assert drafted.tokens.tolist() == plain.tokens.tolist()
    assert sum(one.accepted for one in passes) + len(passes) == len(expected)


def test_a_right_draft_saves_passes(model) -> None:
    session, _ = sessions(model, False)
    prompt = prompt_of([words(20, 5), words(12, 6)])
    session.extend(prompt)
    expected = list(session.plan(DecodeOptions(10)))
    session.reset()
    passes = list[Verified]()
    session.extend(prompt, expected[:9])
    assert list(session.plan(DecodeOptions(10), on_pass=passes.append)) == expected
    assert passes == [Verified(9, 9)], "the extension is the only forward pass"


def test_a_draft_of_a_sampled_answer_is_refused(model) -> None:
    session, _ = sessions(model, False)
    session.extend(prompt_of([words(20, 5)]), [9])
    with pytest.raises(ValueError, match=r"temperature=0\.7 with a draft"):
        session.plan(DecodeOptions(4, temperature=0.7))


def test_an_answer_that_is_dropped_leaves_the_next_one_right(model) -> None:
    session, other = sessions(model, True)
    first, second = prompt_of([words(20, 5), words(12, 6)]), prompt_of([words(20, 5), words(12, 6), words(9, 7)])
    session.extend(first, words(4, 8))
    next(session.plan(DecodeOptions(9), Scripted([words(3, 9)])))
    session.extend(first, words(4, 8))
    session.extend(second)
    other.extend(first)
    other.extend(second)
    assert list(session.plan(DecodeOptions(6))) == list(other.plan(DecodeOptions(6)))
    assert torch.equal(session.extend(second).logits.argmax(), other.extend(second).logits.argmax())
