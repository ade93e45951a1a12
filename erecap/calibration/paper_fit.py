"""The efficiencies of the paper model, fitted to measured prefills and decode steps of one device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from erecap.calibration.flops import causal_pairs
from erecap.calibration.paper_machine import Efficiency, Machine
from erecap.calibration.paper_model import ModelWork, Split, head_s, prefill_times, step_times

ATTENTION_SEEN = 0.10
"""Share of attention in the FLOPs of some point from which on it gets an efficiency of its own. Below, there is one for all."""
_FLOORS = 21  # values of the least time per layer that are tried
_STEPS = 50
_ONE = Split("single", 1)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredPrefill:
    """A measured prefill: ``tokens[l]`` tokens entered layer ``l``, and the first token was known after ``seconds``."""

    tokens: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class MeasuredStep:
    """A measured decode step: ``tokens[l]`` tokens were cached in layer ``l``, and each further token took ``seconds``.

    ``captured`` tells a step that was captured as a CUDA graph from one whose kernels the host launches.
    """

    tokens: tuple[int, ...]
    seconds: float
    captured: bool


def predict_prefill_s(machine: Machine, work: ModelWork, tokens: Sequence[int], split: Split = _ONE) -> float:
    """Predict the seconds to the first token."""
    layers = prefill_times(machine, work, split, tokens)
    return sum(layer.busy_s + layer.traffic_s for layer in layers) + head_s(machine, work, split)


def predict_step_s(machine: Machine, work: ModelWork, cached: Sequence[int], split: Split = _ONE) -> float:
    """Predict the seconds of one further token."""
    layers = step_times(machine, work, split, cached)
    return sum(layer.busy_s + layer.traffic_s for layer in layers) + head_s(machine, work, split)


def predict_captured_step_s(machine: Machine, work: ModelWork, cached: Sequence[int], split: Split = _ONE) -> float:
    """Predict the seconds of one further token where the step is captured as a CUDA graph, which takes no time to launch."""
    layers = step_times(machine, work, split, cached)
    return sum(max(layer.read_s, layer.compute_s) + layer.traffic_s for layer in layers) + head_s(machine, work, split)


def fit_prefill(
    machine: Machine, work: ModelWork, measured: Sequence[MeasuredPrefill], source: str, basis: str = "measured"
) -> Efficiency:
    """Fit ``linear``, ``attention`` and ``layer_s`` to prefills on one device, by least squares of the relative error.

    Each of some values of the least time per layer is tried; for each the two efficiencies follow from a linear fit over the layers
    that take longer.

    Raises
    ------
    ValueError
        For fewer than three points.
    """
    if len(measured) < 3:
        raise ValueError(f"{len(measured)} measured prefills are too few to calibrate with: three figures need three at least")
    work_s = _Work.of(machine, work, measured)
    most = float(work_s.seconds.min()) / work.layers
    fits = [work_s.fit(most * step / (_FLOORS - 1)) for step in range(_FLOORS)]
    floor, linear, attention = min(fits, key=lambda found: float(np.sum(work_s.errors(*found) ** 2)))
    fitted = replace(
        machine.efficiency, linear=1 / linear, attention=1 / attention, layer_s=floor, basis=basis, source=source,
        median_error=None, largest_error=None,
    )  # fmt: skip
    errors = prefill_errors(replace(machine, efficiency=fitted), work, measured)
    return replace(fitted, median_error=float(median(map(abs, errors))), largest_error=float(max(map(abs, errors))))


def prefill_errors(machine: Machine, work: ModelWork, measured: Sequence[MeasuredPrefill]) -> list[float]:
    """Compute predicted / measured - 1 of each prefill on one device."""
    return [predict_prefill_s(machine, work, point.tokens) / point.seconds - 1 for point in measured]


def held_out_errors(machine: Machine, work: ModelWork, measured: Sequence[MeasuredPrefill]) -> list[float | None]:
    """Compute predicted / measured - 1 of each prefill, fitted to the prompts of other lengths; ``None`` where they are too few."""
    errors: list[float | None] = []
    for point in measured:
        others = [other for other in measured if other.tokens[0] != point.tokens[0]]
        if len(others) < 3:
            errors.append(None)
        else:
            without = replace(machine, efficiency=fit_prefill(machine, work, others, ""))
            errors.append(predict_prefill_s(without, work, point.tokens) / point.seconds - 1)
    return errors


def fit_steps(machine: Machine, work: ModelWork, measured: Sequence[MeasuredStep], source: str) -> Efficiency:
    """Fit ``reading`` to captured decode steps and ``step_layer_s`` to the others. What has no points stays as it is."""
    fitted = replace(machine.efficiency, step_basis="measured", step_source=source)
    captured = [_read_bytes(work, point) / machine.memory_bytes_per_s.value / point.seconds for point in measured if point.captured]
    if captured:
        fitted = replace(fitted, reading=median(captured))
    launched = [point for point in measured if not point.captured]
    if launched:
        head = head_s(replace(machine, efficiency=fitted), work, _ONE)
        fitted = replace(fitted, step_layer_s=median((point.seconds - head) / work.layers for point in launched))
    return fitted


def _read_bytes(work: ModelWork, point: MeasuredStep) -> int:
    return work.layers * work.layer_bytes + work.head_bytes + work.kv_bytes * sum(point.tokens)


@dataclass(frozen=True)
class _Work:
    """The work of all points, in seconds at the machine's full rate.

    Attributes
    ----------
    linear, attention
        By point and layer.
    seconds
        Measured seconds of all layers, by point.
    shared
        Whether one efficiency is fitted for both.
    """

    linear: Floats
    attention: Floats
    seconds: Floats
    shared: bool

    @classmethod
    def of(cls, machine: Machine, work: ModelWork, measured: Sequence[MeasuredPrefill]) -> "_Work":
        rate = machine.matrix_flops_per_s.value
        linear = np.array([[work.linear_flops * count for count in point.tokens] for point in measured]) / rate
        attention = np.array([[work.pair_flops * causal_pairs(count) for count in point.tokens] for point in measured]) / rate
        shares = attention.sum(1) / (attention.sum(1) + linear.sum(1))
        seconds = np.array([point.seconds for point in measured]) - head_s(machine, work, _ONE)
        return cls(linear, attention, seconds, bool(shares.max() < ATTENTION_SEEN))

    def layers(self, linear: float, attention: float) -> Floats:
        """Return the seconds of each layer where full-rate seconds cost ``linear`` and ``attention``, without the least time."""
        return self.linear * linear + self.attention * attention

    def errors(self, floor: float, linear: float, attention: float) -> Floats:
        predicted: Floats = np.maximum(self.layers(linear, attention), floor).sum(1)
        return predicted / self.seconds - 1

    def fit(self, floor: float) -> tuple[float, float, float]:
        """Return (floor, price of linear seconds, price of attention seconds) for the least time per layer ``floor``."""
        prices = (2.0, 2.0)
        for _ in range(_STEPS):
            above = self.layers(*prices) > floor
            rest = self.seconds - floor * (~above).sum(1)
            columns = [(self.linear * above).sum(1), (self.attention * above).sum(1)]
            found = self._solve(columns, rest)
            if np.allclose(found, prices, rtol=1e-9):
                break
            prices = found
        return floor, *prices

    def _solve(self, columns: list[Floats], rest: Floats) -> tuple[float, float]:
        if not self.shared:
            matrix = np.stack(columns, 1) / self.seconds[:, None]
            linear, attention = np.linalg.lstsq(matrix, rest / self.seconds, rcond=None)[0]
            if linear > 0 and attention > 0:
                return float(linear), float(attention)
        both = (columns[0] + columns[1]) / self.seconds
        price = max(float(both @ (rest / self.seconds) / max(float(both @ both), 1e-30)), 1e-9)
        return price, price
