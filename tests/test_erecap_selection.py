"""Properties of ``top_k``, on scores full of ties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.selection import top_k

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
