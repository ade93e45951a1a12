"""Prefill by prompt length and keep ratio: TTFT on lengths met before and on new ones, and the ceiling of the speedup."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from erecap.engine.prefill import PrefillResult, prefill
from erecap.models.device import peak_memory_bytes, reset_peak_memory
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.flop_count import count_flops
from erecap.profiling.new_lengths import draw_rounds, measure_new_lengths
from erecap.profiling.prefill_point import Measured, make_point
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.shapes import make_random_prompt
from erecap.profiling.time_budget import TimeBudget
from erecap.profiling.timing import seconds_of, take_turns
from erecap.profiling.variants import Variant, Variants, seconds_to_first_token

WARM_UPS = 2
"""Warm-up rounds per length. The time of the first, which meets the length for the first time, is reported separately."""

WARM_UP_TOKENS = 200
"""Prompt length of the first prefills of all, which load libraries."""

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
    """

    lengths: Sequence[int]
    rounds: int
    seconds: float
    count: bool = True
    new_rounds: int = 12


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
    - ``kv_bytes``, ``peak_memory_bytes``
    - ``scoring_share``, ``selecting_share``: shares of the prefill's time (``StageCost``), 0..1

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
    budget, met = TimeBudget(model.config, plan.seconds, matmul_rate / 2), {WARM_UP_TOKENS, *plan.lengths}
    _warm_up(model, variants)
    for number, length in enumerate(plan.lengths):
        rounds = _rounds_within(budget, length, variants, plan, at_least=0 if number else 1)
        if not rounds:
            _add_all(file, variants, length, "left out: it would take longer than --seconds allows")
            continue
        try:
            points = _measure_length(model, variants, length, rounds, matmul_rate, budget)
        except torch.OutOfMemoryError as error:
            _add_all(file, variants, length, f"out of memory: {str(error).splitlines()[0][:200]}")
            _forget()
            continue
        for point in points.values():
            file.add(point)
        _add_new_lengths(model, variants, length, plan.new_rounds, points, budget, met, file)
    if plan.count:
        _count_all(model, variants, file)


def _warm_up(model: PreTrainedModel, variants: Variants) -> None:
    """Load libraries and kernels with a prompt whose length is not measured."""
    prompt = make_random_prompt(model, WARM_UP_TOKENS)
    for schedule, selector in variants.values():
        prefill(model, prompt, schedule, selector)


def _rounds_within(budget: TimeBudget, length: int, variants: Variants, plan: PrefillPlan, at_least: int) -> int:
    """Predict how many timed rounds fit into the time that is left: at most half of it, the rest is for new lengths."""
    share = sum(1.0 if keep == 1.0 else keep for keep in variants)
    fitting = int(budget.left_s / (share * budget.predict_baseline_s(length))) - _OTHER_ROUNDS
    return max(at_least, min(plan.rounds, fitting if fitting < 2 else fitting // 2))


def _add_all(file: ResultFile, variants: Variants, length: int, status: str) -> None:
    for keep in variants:
        file.add({"prompt_tokens": length, "keep": keep, "status": status})


def _forget() -> None:
    """Return the allocator's cached memory to the device before the next length."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _measure_length(
    model: PreTrainedModel, variants: Variants, length: int, rounds: int, matmul_rate: float, budget: TimeBudget
) -> dict[float, Row]:
    prompt = make_random_prompt(model, length)
    facts = {keep: _first_facts(model, prompt, variant) for keep, variant in variants.items()}
    calls = {keep: partial(seconds_to_first_token, model, prompt, variant) for keep, variant in variants.items()}
    take_turns(calls, WARM_UPS - 1)
    times = take_turns(calls, rounds)
    measured = {keep: Measured(facts[keep][0], times[keep], *facts[keep][1:]) for keep in variants}
    slowest = max(variants)
    budget.learn(measured[slowest].layer_tokens, min(times[slowest]))
    return {keep: make_point(model, prompt, keep, variants[keep], measured, matmul_rate) for keep in variants}


def _first_facts(model: PreTrainedModel, prompt: TokenizedPrompt, variant: Variant) -> tuple[float, tuple[int, ...], int, int]:
    """Run the prompt for the first time; return seconds, tokens per layer, bytes of keys and values, and peak bytes."""
    reset_peak_memory(model.device)
    kept: list[PrefillResult] = []
    seconds = seconds_of(lambda: kept.append(prefill(model, prompt, *variant)), model.device)
    return seconds, kept[0].layer_tokens[0], kept[0].kv_bytes, peak_memory_bytes(model.device)


def _add_new_lengths(
    model: PreTrainedModel,
    variants: Variants,
    length: int,
    most: int,
    points: dict[float, Row],
    budget: TimeBudget,
    met: set[int],
    file: ResultFile,
) -> None:
    """Measure new lengths as far as the time allows, and add their figures to the points of ``length``."""
    round_s = sum(point["first_ttft_ms"] for point in points.values()) / 1e3

    def add(figures: dict[float, Row]) -> None:
        for keep, found in figures.items():
            points[keep].update(found)
            if "speedup" in points[keep]:
                points[keep]["new_speedup_of_met"] = found["new_speedup"] / points[keep]["speedup"]
        file.save()

    rounds = draw_rounds(length, len(variants), max(0, min(most, int(budget.left_s / round_s))), met)
    measure_new_lengths(model, variants, rounds, add)


def _count_all(model: PreTrainedModel, variants: Variants, file: ResultFile) -> None:
    """Add the FLOPs that torch counts to the points of the shortest length. This comes last, because counting is slow."""
    points: list[Row] = [point for point in file.points if point["status"] == "ok"]
    shortest = min((point["prompt_tokens"] for point in points), default=0)
    for point in points:
        if point["prompt_tokens"] == shortest:
            schedule, selector = variants[point["keep"]]
            point["counted_flops"] = count_flops(partial(prefill, model, make_random_prompt(model, shortest), schedule, selector))
            file.save()
