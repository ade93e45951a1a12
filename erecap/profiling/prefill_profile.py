"""Prefill by prompt length and keep ratio: TTFT on lengths met before and on new ones, and the ceiling of the speedup."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from transformers import PreTrainedModel

from erecap.distributed.ranks import agreed
from erecap.engine.prefill import PrefillResult, prefill
from erecap.models.architecture import decoder_parts
from erecap.models.device import peak_memory_bytes, release_cached_memory, reset_peak_memory
from erecap.models.host_memory import available_bytes
from erecap.models.out_of_memory import out_of_memory
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.flop_count import count_flops
from erecap.profiling.memory_formula import prefill_bytes
from erecap.profiling.new_lengths import draw_rounds, measure_new_lengths
from erecap.profiling.prefill_point import Measured, make_point
from erecap.profiling.results import ResultFile, Row, measured_points
from erecap.profiling.shapes import make_random_prompt
from erecap.profiling.spread import end_if_others_wait
from erecap.profiling.time_budget import TimeBudget
from erecap.profiling.timing import seconds_of, take_turns
from erecap.profiling.variants import Variant, Variants, seconds_to_first_token, stock_seconds_to_first_token

WARM_UPS = 2
"""Warm-up rounds per length. The time of the first, which meets the length for the first time, is reported separately."""

WARM_UP_TOKENS = 200
"""Prompt length of the first prefills of all, which load libraries."""

_STOCK = "stock"

FIRST_LENGTH_FACTOR = 4
"""The first length may take this many times the allowed seconds, so that a slow machine measures something."""

_OTHER_ROUNDS = WARM_UPS + 4
"""Rounds besides the timed ones: warm-ups, three prefills per variant for the stages' cost, one to count FLOPs."""


@dataclass(frozen=True)
class PrefillPlan:
    """Settings of the measurement.

    Attributes
    ----------
    lengths
        Prompt lengths in tokens.
    rounds
        Timed rounds per length.
    seconds
        Seconds that the whole measurement may take.
    count
        Whether torch also counts the FLOPs.
    new_rounds
        Rounds of new lengths per length.
    stock
        Whether transformers' own ``generate`` takes part in the rounds, beside the baseline.
    """

    lengths: Sequence[int]
    rounds: int
    seconds: float
    count: bool = True
    new_rounds: int = 12
    stock: bool = True


def profile_prefill(model: PreTrainedModel, variants: Variants, plan: PrefillPlan, matmul_rate: float, file: ResultFile) -> None:
    """Measure every variant at every length, and add one point each to ``file``.

    For a length that runs out of memory, or would take longer than the time that is left, ``status`` gives the reason. Otherwise
    ``status`` is ``ok`` and the point holds:

    - ``prompt_tokens``; ``keep``, the keep ratio; ``rounds``, the number of timed rounds
    - quantiles of TTFT in ms (``quantiles_ms``), and ``first_ttft_ms``, of the first prefill at this length
    - ``speedup``, ``p25_speedup``, ``p75_speedup``: TTFT of the baseline / TTFT, over rounds; ``first_speedup``, of the first
      prefills; ``share_of_ceiling``, speedup / ceiling; these only with a baseline
    - the same on prompt lengths that are new to the process (``measure_new_lengths``), where there was time; with a baseline also
      ``new_speedup_of_met``, ``new_speedup`` / ``speedup``
    - ``ceiling``: the largest speedup that the dropped tokens allow (``erecap.calibration.flops.ceiling``)
    - ``layer_tokens``, by layer; ``kept_share``, their mean / ``prompt_tokens``; ``final_share``, of the last layer
    - ``prefill_flops`` without and ``analytic_flops`` with scorers and logits; ``counted_flops``, by torch, at the shortest length
    - ``achieved_flops_per_s``: ``prefill_flops`` / median TTFT; ``share_of_matmul``, that rate / ``matmul_rate``
    - the baseline also has quantiles of ``stock_ttft``, of transformers' ``generate`` with one token in the same rounds, and
      ``stock_over_baseline`` with quartiles, its time / that of the baseline
    - ``kv_bytes``, of all ranks together; on a GPU ``peak_memory_bytes``, of this rank's devices together
    - ``scoring_share``, ``selecting_share``, ``dropping_share``: shares of the prefill's time (``StageCost``), 0..1

    Parameters
    ----------
    model
        The model.
    variants
        Schedule and selector by keep ratio.
    plan
        What to measure.
    matmul_rate
        The machine's rate of a large matrix product, in FLOP/s.
    file
        Gets the points.
    """
    _warm_up(model, variants)
    file.expect(len(plan.lengths) * len(variants))
    run = _Run(model, variants, plan, matmul_rate, file)
    for length in plan.lengths:
        reason = agreed(run.reason_to_leave_out(length))
        if reason is None:
            run.measure(length)
        else:
            run.add_all(length, reason)
    if plan.count:
        _count_all(model, variants, file)


def _warm_up(model: PreTrainedModel, variants: Variants) -> None:
    """Load libraries and kernels with a prompt whose length is not measured."""
    prompt = make_random_prompt(model, WARM_UP_TOKENS)
    for schedule, selector in variants.values():
        prefill(model, prompt, schedule, selector)


class _Run:
    """A measurement under way: its time, and the prompt lengths that the process has met."""

    def __init__(self, model: PreTrainedModel, variants: Variants, plan: PrefillPlan, matmul_rate: float, file: ResultFile) -> None:
        self._model, self._variants, self._plan, self._file = model, variants, plan, file
        self._matmul_rate, self._budget = matmul_rate, TimeBudget(model.config, plan.seconds, matmul_rate / 2)
        self._met = {WARM_UP_TOKENS, *plan.lengths}

    def reason_to_leave_out(self, length: int) -> str | None:
        """Return why ``length`` cannot be measured, ``None`` where it can."""
        needed = prefill_bytes(self._model.config, self._model.dtype, [length] * self._model.config.num_hidden_layers)
        free = available_bytes()
        if self._model.device.type == "cpu" and free is not None and needed > free:  # a GPU's torch survives it, a process may not
            return f"out of memory: by the formula it needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        allowed_s = self._budget.left_s * (1 if self._file.points else FIRST_LENGTH_FACTOR)
        if self._fitting(length, allowed_s) < 1:
            needed_s = (1 + _OTHER_ROUNDS) * self._round_s(length)
            return f"left out: it would take longer than --seconds allows, about {needed_s:.0f} s"
        return None

    def _round_s(self, length: int) -> float:
        """Predict the seconds of one round: a prefill of every variant."""
        share = sum(1.0 if keep == 1.0 else keep for keep in self._variants) + self._plan.stock
        return share * self._budget.predict_baseline_s(length)

    def _fitting(self, length: int, seconds: float) -> int:
        """Predict how many timed rounds fit into ``seconds`` beside the other ones."""
        return int(seconds / self._round_s(length)) - _OTHER_ROUNDS

    def measure(self, length: int) -> None:
        """Add a point for every variant: its figures at ``length`` first, those of new lengths as they come.

        This takes at most half of the time that is left where longer prompts follow; half of that is for new lengths.
        """
        allowed_s = self._budget.left_s / (1 if length == max(self._plan.lengths) else 2)
        later_s = self._budget.left_s - allowed_s
        rounds = agreed(max(1, min(self._plan.rounds, self._fitting(length, allowed_s) // 2)))
        self._file.begin(f"{length} tokens, {rounds} rounds")
        try:
            points = self._points(length, rounds)
        except RuntimeError as error:
            status = out_of_memory(error)
            if status is None:
                raise
            self.add_all(length, status)
            end_if_others_wait(error)
            release_cached_memory()
            return
        for point in points.values():
            self._file.add(point)
        self._file.begin(f"new lengths just below {length} tokens")
        self._add_new_lengths(length, points, self._budget.left_s - later_s)

    def add_all(self, length: int, status: str) -> None:
        """Add a point with ``status`` alone for every variant."""
        for keep in self._variants:
            self._file.add({"prompt_tokens": length, "keep": keep, "status": status})

    def _points(self, length: int, rounds: int) -> dict[float, Row]:
        model, prompt = self._model, make_random_prompt(self._model, length)
        measured = {keep: _first_run(model, prompt, variant) for keep, variant in self._variants.items()}
        calls: dict[float | str, Callable[[], float]] = {
            keep: partial(seconds_to_first_token, model, prompt, variant) for keep, variant in self._variants.items()
        }
        if self._plan.stock and 1.0 in measured:
            calls[_STOCK] = partial(stock_seconds_to_first_token, model, prompt)
        take_turns(calls, WARM_UPS - 1)
        times = take_turns(calls, rounds)
        measured = {keep: replace(first, rounds_s=times[keep]) for keep, first in measured.items()}
        if _STOCK in times:
            measured[1.0] = replace(measured[1.0], stock_s=times[_STOCK])
        longest = measured[max(measured)]
        self._budget.learn(longest.layer_tokens, min(longest.rounds_s))
        return {keep: make_point(model, prompt, keep, self._variants[keep], measured, self._matmul_rate) for keep in measured}

    def _add_new_lengths(self, length: int, points: dict[float, Row], seconds: float) -> None:
        """Measure new lengths as far as ``seconds`` allow, and add their figures to the points of ``length``."""
        round_s = sum(point["first_ttft_ms"] for point in points.values()) / 1e3
        most = agreed(max(0, min(self._plan.new_rounds, int(seconds / round_s))))

        def add(figures: dict[float, Row]) -> None:
            for keep, found in figures.items():
                points[keep].update(found)
                if "speedup" in points[keep]:
                    points[keep]["new_speedup_of_met"] = found["new_speedup"] / points[keep]["speedup"]
            self._file.save()

        measure_new_lengths(self._model, self._variants, draw_rounds(length, len(points), most, self._met), add)


def _first_run(model: PreTrainedModel, prompt: TokenizedPrompt, variant: Variant) -> Measured:
    """Run the prompt for the first time."""
    devices = set(decoder_parts(model).places)
    reset_peak_memory(*devices)
    kept: list[PrefillResult] = []
    seconds = seconds_of(lambda: kept.append(prefill(model, prompt, *variant)), decoder_parts(model).places[-1])
    peak = None if "cpu" in {device.type for device in devices} else peak_memory_bytes(*devices)
    return Measured(seconds, (), kept[0].layer_tokens[0], kept[0].kv_bytes, peak)


def _count_all(model: PreTrainedModel, variants: Variants, file: ResultFile) -> None:
    """Add the FLOPs that torch counts to the points of the shortest length. This comes last, because counting is slow."""
    points = measured_points(file.points)
    shortest = min((point["prompt_tokens"] for point in points), default=0)
    for point in points:
        if point["prompt_tokens"] == shortest:
            schedule, selector = variants[point["keep"]]
            point["counted_flops"] = count_flops(partial(prefill, model, make_random_prompt(model, shortest), schedule, selector))
            file.save()
