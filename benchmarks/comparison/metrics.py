"""Statistics of runs: rates with intervals, paired differences, SPL. All functions take and return plain numbers."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
"""Lower and upper end of an interval."""
RESAMPLES = 10_000
_Z95 = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> Interval:
    """Compute the 95% interval of a success rate (Wilson 1927). It is also valid for few trials and for rates near 0 and 1.

    Parameters
    ----------
    successes : int
        Trials that succeeded.
    trials : int
        All trials, at least 1.

    Returns
    -------
    tuple of float
        Lower and upper end, within 0 to 1.
    """
    rate, z2 = successes / trials, _Z95**2
    center = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    return max(0.0, center - half), min(1.0, center + half)


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Compute the 95% percentile bootstrap interval of a mean.

    Parameters
    ----------
    values : sequence of float
        The sample, at least one value.
    seed : int
        Seed of the resampling.
    resamples : int
        Number of resamples.

    Returns
    -------
    tuple of float
        Lower and upper end.
    """
    sample = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(sample), size=(resamples, len(sample)))
    low, high = np.quantile(sample[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def spl(success: bool, expert_steps: int, steps: int) -> float:
    """Compute one episode's success weighted by path length (Anderson et al. 2018).

    Parameters
    ----------
    success : bool
        Whether the episode succeeded.
    expert_steps, steps : int
        Environment steps of the expert and of the episode.

    Returns
    -------
    float
        ``success * expert_steps / max(expert_steps, steps)``, 0 to 1.
    """
    if not success:
        return 0.0
    return 1.0 if steps <= expert_steps else expert_steps / steps


def quantile(values: Sequence[float], q: float) -> float | None:
    """Compute a quantile, ``q`` from 0 to 1, linear between neighbours; ``None`` where there are no values."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), q)) if len(values) else None


def mean(values: Sequence[float]) -> float | None:
    """Compute the mean; ``None`` where there are no values."""
    return float(np.mean(values)) if len(values) else None


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Fit a straight line to points (x, y) by least squares and return its slope; ``None`` where all x are the same."""
    x, y = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
    if len(x) < 2 or x.min() == x.max():
        return None
    x = x - x.mean()
    return float(x @ y / (x @ x))


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    """Compute Spearman's rank correlation; ties get the mean of their ranks.

    Parameters
    ----------
    first, second : float arrays of shape (n,)
        The two samples, in pairs.

    Returns
    -------
    float or None
        From -1 to 1; ``None`` where a sample has fewer than two values or only equal ones.
    """
    ranks = [_ranks(values) for values in (first, second)]
    if any(len(row) < 2 or row.min() == row.max() for row in ranks):
        return None
    first_ranks, second_ranks = ((row - row.mean()) / row.std() for row in ranks)
    return float((first_ranks * second_ranks).mean())


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    middles: NDArray[np.float64] = np.cumsum(sizes) - (sizes - 1) / 2
    return middles[group]
