"""Rates, intervals, SPL."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.comparison.metrics import bootstrap_interval, mean, quantile, rank_correlation, spl, wilson_interval


def test_wilson_agrees_with_the_published_example():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29 (method 3)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_mirrors(counts):
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low))


def test_bootstrap_is_reproducible_and_near_the_normal_interval():
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    low, high = bootstrap_interval(list(values), seed=3)
    assert (low, high) == bootstrap_interval(list(values), seed=3)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap_interval([0.0, 0.0, 0.0]) == (0.0, 0.0)
    assert bootstrap_interval([1.0]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("success", "expert", "steps", "expected"),
    [(True, 50, 100, 0.5), (True, 50, 50, 1.0), (True, 50, 40, 1.0), (False, 50, 40, 0.0), (True, 0, 0, 1.0), (True, 0, 5, 0.0)],
)
def test_spl(success, expert, steps, expected):
    assert spl(success, expert, steps) == expected


def test_quantile_and_mean_of_nothing_do_not_exist():
    assert (quantile([], 0.5), mean([])) == (None, None)
    assert quantile([1, 2, 4], 0.5) == 2


def test_rank_correlation_looks_at_order_alone_and_ties_share_a_rank():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -(values**3)) == pytest.approx(-1)
    # ranks 1, 2, 3, 4 and 1.5, 1.5, 3.5, 3.5
    assert rank_correlation(values, np.array([5.0, 5.0, 9.0, 9.0])) == pytest.approx(2 / np.sqrt(5))
    assert rank_correlation(values, np.ones(4)) == rank_correlation(values[:0], values[:0]) is None
