"""Sessions: what they reuse, what an error leaves, how their memory grows, what they refuse."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.calibration.thresholds import fit_thresholds
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import prefill
from erecap.models.architecture import ContextLengthError
from erecap.models.identity import identify
from erecap.models.kv_cache import GrowingLayer
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import SELECTORS, Selector, SelectorContext, make_selector
from erecap.sessions import ReplanSession
from erecap.sessions.reference import SessionReference

STAGES = PruneSchedule((PruneStage(0, 0.6), PruneStage(2, 0.5)), head=2, tail_min=3).by_rule("chunk_top_k")
ALONE = ("learned", "random", "recency", "key-norm")
HEADER = [5, 6]


def words(size: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(7, 320, size).tolist()


def prompt_of(messages: list[list[int]], window: int = 1) -> TokenizedPrompt:
    """With the first message, the newest ``window`` messages and the header protected."""
    sizes, first = [len(message) for message in messages], len(messages) - window
    protected = np.repeat([number == 0 or number >= first for number in range(len(sizes))] + [True], [*sizes, len(HEADER)])
    return TokenizedPrompt(np.array([*chain.from_iterable(messages), *HEADER]), protected, tuple(np.cumsum(sizes).tolist()))


def episode(turns: int, size: int = 20) -> list[TokenizedPrompt]:
    messages = [words(size, turn) for turn in range(turns + 1)]
    return [prompt_of(messages[: turn + 2]) for turn in range(turns)]


def selector_of(model, name: str = "learned") -> Selector:
    torch.manual_seed(7)
    pruner = TokenPruner(identify(model), STAGES.layers).requires_grad_(False)
    return make_selector(name, SelectorContext(STAGES, pruner, seed=3, model=model))


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(4, 4, 2)


@pytest.fixture
def session(model) -> ReplanSession:
    return ReplanSession(model, STAGES, selector_of(model))


@contextmanager
def counted(model) -> Iterator[list[int]]:
    """The numbers of tokens that the model embeds, one per forward."""
    counts: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, ids, out: counts.append(ids[0].numel()))
    yield counts
    hook.remove()


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


def test_without_stages_it_answers_as_the_baseline_does(model):
    session, options = ReplanSession(model), DecodeOptions(6)
    messages = [words(30, 0)]
    for turn in range(5):
        messages.append(words(1 + 9 * turn, turn + 1))
        prompt = prompt_of(messages)
        found, expected = session.extend(prompt), prefill(model, prompt)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
        assert found.layer_tokens == expected.layer_tokens[0]
        answer = [token for (token,) in decode(model, expected, options)]
        assert list(session.plan(options)) == answer
        messages.append([*HEADER, *answer, 2])
        if turn == 2:
            messages[1] = words(5, 99)  # the goal changed


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.lists(st.integers(1, 120), max_size=5), st.sampled_from([1, 5]))
def test_by_thresholds_any_pieces_equal_one_prefill(make_model, sizes, cuts, tail):
    model = make_model(4, 4, 2)
    scorer = selector_of(model)
    schedule = fit_thresholds(model, [TokenizedPrompt.from_ids(words(200, 5))], STAGES, scorer)
    schedule = PruneSchedule(schedule.stages, 2, tail, 0.0, "threshold")
    ids, ends = np.array(words(sum(sizes) + 3, 1)), np.cumsum(sizes)
    session = ReplanSession(model, schedule, scorer)
    for cut in sorted({*(cut for cut in cuts if cut < len(ids)), len(ids)}):
        piece = TokenizedPrompt(ids[:cut], np.zeros(cut, np.bool_), tuple(ends[ends <= cut].tolist()))
        found = session.extend(piece)
    expected = prefill(model, piece, schedule, scorer)
    assert found.layer_tokens == expected.layer_tokens[0]
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
    for stage in expected.stages:
        assert session.kept[stage.after_layer + 1].tolist() == stage.positions[0].tolist()
    for mine, other in zip(session._held.cache.store.layers, expected.cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, other.keys, atol=1e-4, rtol=0)


def test_a_first_turn_prunes_as_a_prefill_does(model, session):
    """Of messages that are protected as a whole, with a tail within them."""
    prompt = prompt_of([words(size, size) for size in (12, 30, 25, 14)])
    found, expected = session.extend(prompt), prefill(model, prompt, STAGES, selector_of(model))
    assert found.layer_tokens == expected.layer_tokens[0]
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)


def test_what_is_not_reused_is_run_once(model, session):
    for prompt in [*episode(4), *episode(2), prompt_of([words(9, 40), words(20, 1)])]:
        with counted(model) as counts:
            found = session.extend(prompt)
        assert counts == [len(prompt) - found.reused_tokens]


def test_only_the_new_message_and_the_header_are_run(session):
    prompts = episode(4)
    reused = [session.extend(prompt).reused_tokens for prompt in prompts]
    assert reused == [0, *(len(prompt) - len(HEADER) for prompt in prompts[:-1])]
    assert session.extend(prompts[-1]).reused_tokens == len(prompts[-1]) - 1


def test_the_tokens_of_the_answer_are_not_run_again(model, session):
    messages = [words(20, 0), words(20, 1)]
    session.extend(prompt_of(messages))
    *answer, last = session.plan(DecodeOptions(6))
    messages += [[*HEADER, *answer, last, 2], words(10, 2)]
    assert session.extend(prompt_of(messages, window=2)).reused_tokens == 40 + len(HEADER) + len(answer)


def test_an_answer_is_reused_up_to_where_the_next_prompt_leaves_it(session):
    messages = [words(20, 0), words(20, 1)]
    session.extend(prompt_of(messages))
    answer = list(session.plan(DecodeOptions(6)))
    messages += [[*HEADER, *answer[:2], 3, 2], words(10, 2)]
    assert session.extend(prompt_of(messages, window=2)).reused_tokens == 40 + len(HEADER) + 2


def test_an_answer_that_is_unprotected_at_once_is_judged_and_dropped(model, session):
    """Where no new token may be dropped, so that nothing but the tokens held asks for verdicts on the way."""
    expected, messages = SessionReference(model, STAGES, selector_of(model)), [words(20, 0), words(20, 1)]
    for one in (session, expected):
        one.extend(prompt_of(messages))
    *answer, _ = session.plan(DecodeOptions(9))
    expected.answer(answer)
    messages += [[*HEADER, *answer], words(20, 2)]
    found, logits = session.extend(prompt_of(messages)), expected.extend(prompt_of(messages))
    assert found.reused_tokens == expected.reused == 40 + len(HEADER) + len(answer)
    assert [held.tolist() for held in session.kept] == expected.kept
    torch.testing.assert_close(found.logits, logits, atol=1e-4, rtol=0)


def test_what_left_the_window_is_dropped_and_what_is_in_it_is_whole(session):
    prompts = episode(4, size=40)
    for turn, prompt in enumerate(prompts):
        found = session.extend(prompt)
        older, newest = 40 * (turn + 1), len(prompt) - 40 * (turn + 1)
        assert found.layer_tokens == (len(prompt), *[40 + 24 * turn + newest] * 2, 40 + 12 * turn + newest)
        assert all(set(range(older, len(prompt))) <= set(held.tolist()) for held in session.kept)


def test_compacting_ahead_changes_nothing_but_the_moment(model, session):
    other = ReplanSession(model, STAGES, selector_of(model))
    for prompt in episode(4):
        known = len(session.tokens) - len(HEADER)
        if known > 0:
            before = session.kv_bytes
            session.compact(prompt.protected[:known])
            assert session.kv_bytes < before or known < 40
        found, expected = session.extend(prompt), other.extend(prompt)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
        assert found.layer_tokens == expected.layer_tokens


def test_compacting_leaves_a_guarded_tail_to_be_run_again(model):
    scorer, ids = selector_of(model), np.array(words(60, 3))
    bare = [TokenizedPrompt(ids[:n], np.zeros(n, np.bool_), ends) for n, ends in ((40, (20, 40)), (60, (20, 40, 60)))]
    session, expected = ReplanSession(model, STAGES, scorer), SessionReference(model, STAGES, scorer)
    session.extend(bare[0])
    expected.extend(bare[0])
    session.compact(np.zeros(40, np.bool_))
    assert [held.tolist() for held in session.kept] == expected.kept
    torch.testing.assert_close(session.extend(bare[1]).logits, expected.extend(bare[1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("window", [1, 0])
@pytest.mark.parametrize("layer", range(4))
def test_after_an_error_in_extend_the_next_call_is_right(model, session, layer, window):
    """With a window of 0 the failing call drops tokens of the answer on the way, so these are run again."""
    expected = SessionReference(model, STAGES, selector_of(model))
    messages = [words(20, 0), words(20, 1)]
    for one in (session, expected):
        one.extend(prompt_of(messages))
    *answer, last = session.plan(DecodeOptions(5))
    expected.answer(answer)
    messages += [[*HEADER, *answer, last, 2], words(20, 2)]
    with broken(model, layer), pytest.raises(BrokenLayerError):
        session.extend(prompt_of(messages, window * 2))
    with pytest.raises(ValueError, match="call extend"):
        session.plan(DecodeOptions(1))
    if not window:
        expected._forget(40)
    found = session.extend(prompt_of(messages, window * 2))
    torch.testing.assert_close(found.logits, expected.extend(prompt_of(messages, window * 2)), atol=1e-4, rtol=0)
    assert [held.tolist() for held in session.kept] == expected.kept
    assert found.reused_tokens == expected.reused


@pytest.mark.parametrize("layer", range(4))
def test_after_an_error_in_plan_the_answer_can_be_asked_for_again(model, session, layer):
    prompts, options = episode(2), DecodeOptions(6)
    session.extend(prompts[0])
    answer = list(session.plan(options))
    started = session.plan(options)
    with broken(model, layer, call=3), pytest.raises(BrokenLayerError):
        list(started)
    assert session.tokens.tolist() == [*prompts[0].input_ids, *answer[:3]]
    assert list(session.plan(options)) == answer
    other = ReplanSession(model, STAGES, selector_of(model))
    other.extend(prompts[0])
    torch.testing.assert_close(session.extend(prompts[1]).logits, other.extend(prompts[1]).logits, atol=1e-4, rtol=0)


def test_a_broken_compaction_starts_afresh(model, session, monkeypatch):
    prompts = episode(3)
    session.extend(prompts[0])

    def fail(*_: object) -> None:
        raise BrokenLayerError

    with monkeypatch.context() as patch:
        patch.setattr(GrowingLayer, "keep", fail)
        with pytest.raises(BrokenLayerError):
            session.extend(prompts[1])
    fresh = ReplanSession(model, STAGES, selector_of(model))
    found = session.extend(prompts[2])
    assert found.reused_tokens == 0
    torch.testing.assert_close(found.logits, fresh.extend(prompts[2]).logits, atol=1e-4, rtol=0)


def test_a_layer_is_moved_only_when_its_room_is_used_up(session):
    places: dict[int, list[int]] = {layer: [] for layer in range(4)}
    for prompt in episode(45):
        session.extend(prompt)
        for layer, held in enumerate(session._held.cache.store.layers):
            places[layer].append(held.keys.data_ptr())
        list(session.plan(DecodeOptions(3)))
    moves = [sum(one != other for one, other in pairwise(row)) for row in places.values()]
    assert max(moves) <= 6  # 920 tokens; each move makes room for 128 more, or for an eighth
    assert len(session.tokens) > 900


def test_an_answer_and_a_compaction_move_no_buffer(session):
    prompts = episode(3)
    session.extend(prompts[0])
    places = [held.keys.data_ptr() for held in session._held.cache.store.layers]
    list(session.plan(DecodeOptions(10)))
    session.extend(prompts[1])
    assert session._held.cache.layer_tokens[-1] < len(prompts[1])
    assert [held.keys.data_ptr() for held in session._held.cache.store.layers] == places


def live_bytes() -> int:
    gc.collect()
    return sum(held.untyped_storage().nbytes() for held in gc.get_objects() if type(held) is torch.Tensor)


def test_memory_is_back_after_many_episodes(session):
    def play() -> None:
        for prompt in episode(4):
            session.extend(prompt)
            list(session.plan(DecodeOptions(3)))

    play()
    session.reset()
    before = live_bytes()
    for _ in range(10):
        play()
        assert session.kv_bytes > 0
        session.reset()
        assert session.kv_bytes == 0
    assert live_bytes() == before


def test_an_answer_asked_for_again_is_the_same(session):
    session.extend(episode(1)[0])
    options = DecodeOptions(5, temperature=1.0, seed=4)
    assert list(session.plan(options)) == list(session.plan(options))


def test_an_answer_ends_with_the_end_token_and_avoids_banned_ones(session):
    session.extend(episode(1)[0])
    answer = list(session.plan(DecodeOptions(6)))
    assert list(session.plan(DecodeOptions(6, eos_ids=frozenset({answer[2]}))))[-1] == answer[2]
    assert next(session.plan(DecodeOptions(6, ban=lambda _: [answer[0]]))) != answer[0]


def test_an_answer_given_up_leaves_what_was_decoded(session):
    prompt = episode(1)[0]
    session.extend(prompt)
    started = session.plan(DecodeOptions(6))
    answer = [next(started), next(started)]
    started.close()
    assert session.tokens.tolist() == [*prompt.input_ids, answer[0]]
    assert list(session.plan(DecodeOptions(2))) == answer


def test_an_answer_cannot_go_on_after_another_call(session):
    prompts = episode(2)
    session.extend(prompts[0])
    started = session.plan(DecodeOptions(6))
    next(started)
    session.extend(prompts[1])
    with pytest.raises(ValueError, match="used otherwise"):
        next(started)


def test_a_prompt_or_an_answer_beyond_the_context_is_refused_and_changes_nothing(model, session):
    prompt = episode(1)[0]
    session.extend(prompt)
    with pytest.raises(ContextLengthError):
        session.plan(DecodeOptions(1024))
    with pytest.raises(ContextLengthError):
        session.extend(TokenizedPrompt.from_ids(words(1100, 1)))
    assert len(list(session.plan(DecodeOptions(3)))) == 3


def test_flags_for_tokens_that_are_not_held_are_refused(session):
    with pytest.raises(ValueError, match="3 flags for 0 tokens"):
        session.compact(np.ones(3, np.bool_))


@pytest.mark.parametrize("name", [name for name in SELECTORS if name not in ALONE])
def test_selectors_that_score_tokens_by_others_are_refused(model, name):
    with pytest.raises(ValueError, match="tokenwise"):
        ReplanSession(model, STAGES, selector_of(model, name))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (STAGES.by_rule("top_k"), "chunk_top_k"),
        (PruneSchedule(STAGES.stages, rule="chunk_top_k", tail_share=0.1), "tail_share=0.1"),
        (PruneSchedule((PruneStage(3, 0.5),), tail_share=0.0, rule="chunk_top_k"), "layer"),
    ],
)
def test_schedules_that_a_session_cannot_follow_are_refused(model, schedule, message):
    with pytest.raises(ValueError, match=message):
        ReplanSession(model, schedule, selector_of(model))


def test_stages_without_a_selector_are_refused(model):
    with pytest.raises(ValueError, match="needs a selector"):
        ReplanSession(model, STAGES)
