"""The fit of a ``CostModel`` to measured answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from erecap.calibration.cost_model import CostModel, Setting, decode_work, prefill_work

_PRICES = ("overhead_s", "per_token_s", "per_pair_s", "per_stage_s", "per_scored_s", "step_s", "per_cached_s")
_LATE = 0.9


@dataclass(frozen=True)
class Measurement:
    """The times of one prompt under one schedule.

    Attributes
    ----------
    layer_tokens
        Tokens that entered each layer.
    ttft_s
        Seconds to the first token, one per round.
    decode_s
        Seconds from the first token to the last, one per round.
    """

    layer_tokens: tuple[int, ...]
    ttft_s: tuple[float, ...]
    decode_s: tuple[float, ...]

    @property
    def first_s(self) -> float:
        """Median seconds to the first token."""
        return median(self.ttft_s)

    @property
    def rounds_s(self) -> tuple[float, ...]:
        """Seconds of the whole answer, one per round."""
        return tuple(first + rest for first, rest in zip(self.ttft_s, self.decode_s, strict=True))

    @property
    def replan_s(self) -> float:
        """Median seconds of the whole answer."""
        return median(self.rounds_s)


def fit_cost_model(
    setting: Setting, answer_tokens: int, measured: Sequence[Measurement], held_out: Sequence[Measurement]
) -> CostModel:
    """Fit a cost model to measured medians, by least squares of the relative error.

    Parameters
    ----------
    setting
        Setting in which the times were measured.
    answer_tokens
        Tokens of each answer, at least 2.
    measured
        Measurements to fit to.
    held_out
        Measurements to judge the fit by.

    Raises
    ------
    ValueError
        Where ``measured`` or ``held_out`` is empty, or ``answer_tokens`` is below 2.
    """
    if not measured or not held_out or answer_tokens < 2:
        raise ValueError(
            f"{len(measured)} measurements to fit, {len(held_out)} to judge by, answers of {answer_tokens} tokens: a cost model "
            "needs one of each at least, and answers of 2 tokens or more"
        )
    prefill = _fit([prefill_work(m.layer_tokens) for m in measured], [m.first_s for m in measured])
    decode = _fit([decode_work(m.layer_tokens, answer_tokens) for m in measured], [median(m.decode_s) for m in measured])
    prices: dict[str, Any] = dict(zip(_PRICES, [*prefill, *decode], strict=True))
    return _judged(CostModel(setting=setting, answer_tokens=answer_tokens, **prices), held_out)


def relative_error(model: CostModel, measurement: Measurement) -> float:
    """Return (predicted - measured) / measured for the median seconds of the whole answer."""
    return model.replan_s(measurement.layer_tokens) / measurement.replan_s - 1


def _judged(model: CostModel, held_out: Sequence[Measurement]) -> CostModel:
    errors = [abs(relative_error(model, m)) for m in held_out]
    late = [spent / model.replan_s(m.layer_tokens) for m in held_out for spent in m.rounds_s]
    return replace(model, late_p90=max(1.0, float(np.quantile(late, _LATE))), error_p50=median(errors), error_max=max(errors))


def _fit(work: Sequence[tuple[int, ...]], seconds: Sequence[float]) -> list[float]:
    """Fit non-negative prices to the columns of ``work``. Errors are relative, so short and long answers weigh the same."""
    rows = np.array(work, np.float64) / np.array(seconds)[:, None]
    prices: list[float] = non_negative(rows, np.ones(len(rows))).tolist()
    return prices


def non_negative(rows: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve non-negative least squares: the ``x >= 0`` that minimises ``|rows @ x - target|``.

    The minimum equals the unconstrained solution over the columns where it is positive (Lawson and Hanson 1974). So every set of
    columns is tried, and the best solution without a negative entry is taken; five columns have 32 sets.

    Parameters
    ----------
    rows
        float64 ``(measurements, columns)``.
    target
        float64 ``(measurements,)``.

    Returns
    -------
    ndarray
        float64 ``(columns,)``.
    """
    scale = np.abs(rows).max(axis=0)
    scale[scale == 0] = 1.0  # a column of zeros keeps the price 0
    scaled = rows / scale
    best, least = np.zeros(rows.shape[1]), np.inf
    for chosen in _subsets(rows.shape[1]):
        x = _free(scaled, target, chosen)
        error = float(np.linalg.norm(scaled @ x - target))
        if x.min() >= 0 and error < least:
            best, least = x / scale, error
    return best


def _subsets(columns: int) -> Iterable[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(columns), size) for size in range(columns + 1))


def _free(rows: NDArray[np.float64], target: NDArray[np.float64], chosen: tuple[int, ...]) -> NDArray[np.float64]:
    solution = np.zeros(rows.shape[1])
    solution[list(chosen)] = np.linalg.lstsq(rows[:, chosen], target, rcond=None)[0]
    return solution
