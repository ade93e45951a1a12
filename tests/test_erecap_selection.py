"""Properties of the selection functions, on scores full of ties."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.engine.selection import above, chunk_top_k, places, top_k

TIED = st.sampled_from([-2.0, -1.0, 0.0, 0.0, 0.5, 0.5, 3.0])
ROW = st.lists(st.tuples(TIED, st.booleans()), min_size=1, max_size=40)


def select(row, keep):
    scores, forced = (torch.tensor([column]) for column in zip(*row, strict=True))
    return top_k(scores, forced, keep)[0].tolist()


def best(row, keep):
    return sorted(sorted(range(len(row)), key=lambda i: (not row[i][1], -row[i][0], i))[:keep])


@given(ROW, st.data())
def test_keeps_forced_then_best_then_earliest_in_order(row, data):
    keep = data.draw(st.integers(max(1, sum(forced for _, forced in row)), len(row)))
    assert select(row, keep) == best(row, keep)


@given(ROW, st.data())
def test_raising_a_kept_score_keeps_it(row, data):
    keep = data.draw(st.integers(max(1, sum(forced for _, forced in row)), len(row)))
    token = data.draw(st.sampled_from(select(row, keep)))
    raised = [*row[:token], (row[token][0] + 1.0, row[token][1]), *row[token + 1 :]]
    assert token in select(raised, keep)


@given(st.lists(ROW, min_size=2, max_size=4), st.data())
def test_rows_of_a_ragged_batch_get_what_they_get_alone(rows, data):
    keeps = [data.draw(st.integers(max(1, sum(f for _, f in row)), len(row))) for row in rows]
    width, lengths = max(map(len, rows)), torch.tensor([len(row) for row in rows])
    padded = [[*row, *[(9.0, True)] * (width - len(row))] for row in rows]
    scores = torch.tensor([[score for score, _ in row] for row in padded])
    forced = torch.tensor([[flag for _, flag in row] for row in padded])
    padding = torch.arange(width) >= lengths[:, None]
    chosen = top_k(scores, forced, max(keeps), torch.tensor(keeps), padding)
    for row, keep, found in zip(rows, keeps, chosen.tolist(), strict=True):
        assert found[:keep] == best(row, keep)
        assert found[keep:] == [width - 1] * (max(keeps) - keep)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_no_score_outranks_a_forced_token(bad):
    assert select([(bad, False), (bad, False), (-5.0, True)], 1) == [2]


def test_nan_ranks_lowest():
    assert select([(float("nan"), False), (-1e30, False), (0.0, False)], 2) == [1, 2]


CHUNKS = st.lists(st.lists(st.tuples(TIED, st.booleans()), max_size=12), min_size=1, max_size=6).filter(any)


def kept_of(chunks, data):
    return [data.draw(st.integers(sum(forced for _, forced in chunk), len(chunk))) for chunk in chunks]


def select_by_chunk(rows, keeps):
    """Rows of chunks, padded to one width and one number of chunks, with a last chunk for the padding."""
    width, most = max(sum(map(len, row)) for row in rows), max(map(len, rows))
    flat = [[*chain(*row), *[(9.0, True)] * (width - sum(map(len, row)))] for row in rows]
    numbers = [[i for i, chunk in enumerate(row) for _ in chunk] for row in rows]
    numbers = [[*row, *[most] * (width - len(row))] for row in numbers]
    starts = [[sum(map(len, row[:i])) for i in range(most + 1)] for row in rows]
    kept = [[*keep, *[0] * (most + 1 - len(keep))] for keep in keeps]
    scores = torch.tensor([[score for score, _ in row] for row in flat])
    forced = torch.tensor([[flag for _, flag in row] for row in flat])
    counts = [sum(keep) for keep in keeps]
    found = chunk_top_k(scores, forced, torch.tensor(numbers), torch.tensor(starts), torch.tensor(kept), max(counts))
    assert all(row[count:] == [width - 1] * (max(counts) - count) for row, count in zip(found.tolist(), counts, strict=True))
    return [row[:count] for row, count in zip(found.tolist(), counts, strict=True)]


@given(st.lists(CHUNKS, min_size=1, max_size=3), st.data())
def test_each_chunk_keeps_its_best_and_rows_get_what_they_get_alone(rows, data):
    keeps = [kept_of(row, data) for row in rows]
    for row, keep, found in zip(rows, keeps, select_by_chunk(rows, keeps), strict=True):
        starts = [sum(map(len, row[:i])) for i in range(len(row))]
        assert found == [start + i for start, chunk, n in zip(starts, row, keep, strict=True) for i in best(chunk, n)]


@given(CHUNKS, CHUNKS, st.data())
def test_chunks_that_are_appended_change_no_verdict(chunks, more, data):
    keep, more_keep = kept_of(chunks, data), kept_of(more, data)
    (alone,), (longer,) = select_by_chunk([chunks], [keep]), select_by_chunk([[*chunks, *more]], [[*keep, *more_keep]])
    assert longer[: len(alone)] == alone


@given(ROW, ROW, TIED)
def test_a_threshold_looks_at_one_token_at_a_time(row, more, tau):
    scores, forced = (torch.tensor([column]) for column in zip(*row, *more, strict=True))
    survives = above(scores, forced, tau)
    assert survives[0].tolist() == [flag or score > tau for score, flag in (*row, *more)]
    assert torch.equal(survives[:, : len(row)], above(scores[:, : len(row)], forced[:, : len(row)], tau))


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=3))
def test_places_are_those_of_the_survivors_in_order(rows):
    wanted = [[i for i, flag in enumerate(row) if flag] for row in rows]
    most = max(map(len, wanted))
    assert places(torch.tensor(rows), most).tolist() == [[*row, *[6] * (most - len(row))] for row in wanted]


def test_nan_is_above_no_threshold_and_padding_never_survives():
    scores = torch.tensor([[float("nan"), 1.0, 1.0]])
    padding = torch.tensor([[False, False, True]])
    assert above(scores, torch.tensor([[False, False, True]]), 0.0, padding).tolist() == [[False, True, False]]
