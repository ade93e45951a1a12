"""Prefill by prompt length and keep ratio: TTFT against the baseline, the ceiling and the machine's matrix product rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel

from erecap.calibration.flops import ceiling, prefill_flops
from erecap.engine.prefill import PrefillResult, prefill
from erecap.models.device import peak_memory_bytes, reset_peak_memory
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.flop_count import analytic_flops, count_flops
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.shapes import make_random_prompt
from erecap.profiling.stage_cost import measure_stage_cost
from erecap.profiling.timing import quantiles_ms, ratio_quartiles, seconds_of, take_turns
from erecap.schedule import PruneSchedule
from erecap.selectors import Selector

WARM_UPS = 2
"""Warm-up rounds per length. The time of the first, which meets the length for the first time, is reported separately."""

Variants = dict[float, tuple[PruneSchedule, Selector | None]]
"""Schedule and selector by keep ratio; 1.0 is the baseline, with the empty schedule."""


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
    """

    lengths: Sequence[int]
    rounds: int
    seconds: float
    count: bool = True


def profile_prefill(model: PreTrainedModel, variants: Variants, plan: PrefillPlan, matmul_rate: float, file: ResultFile) -> None:
    """Measure every variant at every length, and add one point each to ``file``.

    For a length that runs out of memory, or would take longer than the time that is left, ``status`` gives the reason. Otherwise
    ``status`` is ``ok`` and the point holds:

    - ``prompt_tokens``; ``keep``, the keep ratio; ``rounds``, the number of timed rounds
    - quantiles of TTFT in ms (``quantiles_ms``), and ``first_ttft_ms``, of the first prefill at this length
    - ``speedup``, ``p25_speedup``, ``p75_speedup``: TTFT of the baseline / TTFT, over rounds; ``first_speedup``, of the first
      prefills; ``share_of_ceiling``, speedup / ceiling; these only with a baseline
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
    end, rate = perf_counter() + plan.seconds, _Rate(model)
    _warm_up(model, variants)
    for length in plan.lengths:
        rounds = rate.rounds_within(end - perf_counter(), length, variants, plan.rounds)
        if not rounds:
            _add_all(file, variants, length, "left out: it would take longer than --seconds allows")
            continue
        try:
            points = _measure_length(model, variants, length, rounds, matmul_rate, rate)
        except torch.OutOfMemoryError as error:
            _add_all(file, variants, length, f"out of memory: {str(error).splitlines()[0][:200]}")
            _forget()
            continue
        for point in points:
            file.add(point)
    if plan.count:
        _count_all(model, variants, file)


def _warm_up(model: PreTrainedModel, variants: Variants) -> None:
    """Load libraries and kernels with a prompt whose length is not measured."""
    prompt = make_random_prompt(model, 200)
    for schedule, selector in variants.values():
        prefill(model, prompt, schedule, selector)


def _add_all(file: ResultFile, variants: Variants, length: int, status: str) -> None:
    for keep in variants:
        file.add({"prompt_tokens": length, "keep": keep, "status": status})


def _forget() -> None:
    """Return the allocator's cached memory to the device before the next length."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Rate:
    """The measured rate of the model in FLOP/s, to predict how long a length will take."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._config, self.flops_per_s = model.config, 0.0

    def rounds_within(self, seconds: float, length: int, variants: Variants, most: int) -> int:
        """Predict how many rounds fit into ``seconds``, from 0 to ``most``; ``most`` while no rate is known."""
        if not self.flops_per_s:
            return most
        share = sum(1.0 if keep == 1.0 else keep for keep in variants)
        flops = sum(prefill_flops(self._config, [length] * self._config.num_hidden_layers))
        # Subtract what is run besides the rounds: warm-ups, three prefills per variant for the stages' cost, one to count FLOPs.
        return max(0, min(most, int(seconds * self.flops_per_s / (flops * share)) - WARM_UPS - 4))

    def learn(self, length: int, seconds: float) -> None:
        self.flops_per_s = sum(prefill_flops(self._config, [length] * self._config.num_hidden_layers)) / seconds


@dataclass(frozen=True)
class _Measured:
    """One variant at one length.

    Attributes
    ----------
    first_s
        Seconds of the first prefill.
    rounds_s
        Seconds to the first token, one per round.
    layer_tokens
        Tokens that entered each layer.
    kv_bytes
        Bytes of keys and values after the prefill.
    peak_bytes
        Peak memory of the first prefill, in bytes.
    """

    first_s: float
    rounds_s: list[float]
    layer_tokens: tuple[int, ...]
    kv_bytes: int
    peak_bytes: int


def _measure_length(
    model: PreTrainedModel, variants: Variants, length: int, rounds: int, matmul_rate: float, rate: _Rate
) -> list[Row]:
    prompt = make_random_prompt(model, length)
    facts = {keep: _first_facts(model, prompt, *variant) for keep, variant in variants.items()}
    calls = {keep: _timed_first_token(model, prompt, *variant) for keep, variant in variants.items()}
    take_turns(calls, WARM_UPS - 1)
    times = take_turns(calls, rounds)
    measured = {keep: _Measured(facts[keep][0], times[keep], *facts[keep][1:]) for keep in variants}
    if 1.0 in times:
        rate.learn(length, min(times[1.0]))
    return [_point(model, prompt, keep, variants[keep], measured, matmul_rate) for keep in variants]


def _first_facts(
    model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector | None
) -> tuple[float, tuple[int, ...], int, int]:
    """Run the prompt for the first time; return seconds, tokens per layer, bytes of keys and values, and peak bytes."""
    reset_peak_memory(model.device)
    kept: list[PrefillResult] = []
    seconds = seconds_of(lambda: kept.append(prefill(model, prompt, schedule, selector)), model.device)
    return seconds, kept[0].layer_tokens[0], kept[0].kv_bytes, peak_memory_bytes(model.device)


def _timed_first_token(
    model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector | None
) -> Callable[[], float]:
    """Return a function that prefills and returns the seconds until the host knows the first token."""
    return partial(seconds_of, lambda: prefill(model, prompt, schedule, selector).logits.argmax(-1).tolist(), model.device)


def _point(
    model: PreTrainedModel,
    prompt: TokenizedPrompt,
    keep: float,
    variant: tuple[PruneSchedule, Selector | None],
    measured: dict[float, _Measured],
    matmul_rate: float,
) -> Row:
    own, length = measured[keep], len(prompt)
    seconds = sorted(own.rounds_s)[len(own.rounds_s) // 2]
    flops = sum(prefill_flops(model.config, own.layer_tokens))
    return {
        "prompt_tokens": length,
        "keep": keep,
        "status": "ok",
        "rounds": len(own.rounds_s),
        **quantiles_ms("ttft", own.rounds_s),
        "first_ttft_ms": own.first_s * 1e3,
        **_against_baseline(model, own, measured.get(1.0)),
        "layer_tokens": list(own.layer_tokens),
        "kept_share": sum(own.layer_tokens) / len(own.layer_tokens) / length,
        "final_share": own.layer_tokens[-1] / length,
        "analytic_flops": _on_paper(model, variant[0], own.layer_tokens),
        "prefill_flops": flops,
        "achieved_flops_per_s": flops / seconds,
        "share_of_matmul": flops / seconds / matmul_rate,
        "kv_bytes": own.kv_bytes,
        "peak_memory_bytes": own.peak_bytes,
        **_stage_shares(model, prompt, *variant),
    }


def _against_baseline(model: PreTrainedModel, own: _Measured, baseline: _Measured | None) -> Row:
    most = ceiling(model.config, own.layer_tokens)
    if baseline is None:
        return {"ceiling": most}
    ratios = ratio_quartiles("speedup", baseline.rounds_s, own.rounds_s)
    return {
        **ratios,
        "ceiling": most,
        "share_of_ceiling": ratios["speedup"] / most,
        "first_speedup": baseline.first_s / own.first_s,
    }


def _on_paper(model: PreTrainedModel, schedule: PruneSchedule, layer_tokens: Sequence[int]) -> int:
    scored = [
        stage.after_layer for stage in schedule.stages if layer_tokens[stage.after_layer + 1] < layer_tokens[stage.after_layer]
    ]
    return analytic_flops(model.config, layer_tokens, sum(layer_tokens[layer] for layer in scored))


def _stage_shares(model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector | None) -> Row:
    if selector is None:
        return {"scoring_share": 0.0, "selecting_share": 0.0}
    cost = measure_stage_cost(model, prompt, schedule, selector)
    return {"scoring_share": cost.scoring, "selecting_share": cost.selecting}


def _count_all(model: PreTrainedModel, variants: Variants, file: ResultFile) -> None:
    """Add the FLOPs that torch counts to the points of the shortest length. This comes last, because counting is slow."""
    points: list[Row] = [point for point in file.points if point["status"] == "ok"]
    shortest = min((point["prompt_tokens"] for point in points), default=0)
    for point in points:
        if point["prompt_tokens"] == shortest:
            schedule, selector = variants[point["keep"]]
            point["counted_flops"] = count_flops(partial(prefill, model, make_random_prompt(model, shortest), schedule, selector))
            file.save()


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    short = {"tokens": point["prompt_tokens"], "keep": point["keep"]}
    if point["status"] != "ok":
        return short | {"status": point["status"]}
    return short | {
        "ttft ms": f"{point['median_ttft_ms']:.1f}",
        "first ms": f"{point['first_ttft_ms']:.0f}",
        "speedup": f"{point.get('speedup', 1.0):.2f}",
        "ceiling": f"{point['ceiling']:.2f}",
        "of ceiling": f"{point.get('share_of_ceiling', 1.0):.1%}",
        "TFLOP/s": f"{point['achieved_flops_per_s'] / 1e12:.1f}",
        "of matmul": f"{point['share_of_matmul']:.1%}",
        "stages": f"{point['scoring_share'] + point['selecting_share']:.2%}",
        "KV MB": f"{point['kv_bytes'] / 1e6:.1f}",
        "status": "ok",
    }
