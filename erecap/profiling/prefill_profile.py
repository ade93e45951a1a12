"""Prefill by prompt length and keep ratio: time to the first token against the baseline, the ceiling and the machine's rate."""

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
"""Rounds before those that count. In the first a length is met for the first time, which is reported on its own."""

Variants = dict[float, tuple[PruneSchedule, Selector | None]]
"""Schedule and selector by keep ratio; 1.0 is the baseline, with the empty schedule."""


@dataclass(frozen=True)
class PrefillPlan:
    """Prompt lengths in tokens, rounds at each, the seconds that the whole may take, and whether to count FLOPs."""

    lengths: Sequence[int]
    rounds: int
    seconds: float
    count: bool = True


def profile_prefill(model: PreTrainedModel, variants: Variants, plan: PrefillPlan, matmul_rate: float, file: ResultFile) -> None:
    """Measure every variant at every length and add one point each to ``file``.

    A length that runs out of memory, or that would take longer than what is left of the time, is a point that says so.
    ``matmul_rate`` is the machine's, in FLOP/s.
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
    """Load libraries and kernels on a prompt of no measured length."""
    prompt = make_random_prompt(model, 200)
    for schedule, selector in variants.values():
        prefill(model, prompt, schedule, selector)


def _add_all(file: ResultFile, variants: Variants, length: int, status: str) -> None:
    for keep in variants:
        file.add({"prompt_tokens": length, "keep": keep, "status": status})


def _forget() -> None:
    """Give the allocator's memory back, so that the next length starts afresh."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Rate:
    """What the model was seen to do per second, to tell how long a length will take."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._config, self.flops_per_s = model.config, 0.0

    def rounds_within(self, seconds: float, length: int, variants: Variants, most: int) -> int:
        """How many rounds fit into ``seconds``, at most ``most``; 0 for none. All of them while no rate is known."""
        if not self.flops_per_s:
            return most
        share = sum(1.0 if keep == 1.0 else keep for keep in variants)
        flops = sum(prefill_flops(self._config, [length] * self._config.num_hidden_layers))
        # Besides the rounds: warm-ups, three prefills per variant for the stages' cost, and one for the counted FLOPs.
        return max(0, min(most, int(seconds * self.flops_per_s / (flops * share)) - WARM_UPS - 4))

    def learn(self, length: int, seconds: float) -> None:
        self.flops_per_s = sum(prefill_flops(self._config, [length] * self._config.num_hidden_layers)) / seconds


@dataclass(frozen=True)
class _Measured:
    """One variant at one length: seconds of the first run and of each round, what the prefill left, peak memory in bytes."""

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
    """Run the prompt for the first time: seconds, tokens per layer, bytes of keys and values, peak bytes."""
    reset_peak_memory(model.device)
    kept: list[PrefillResult] = []
    seconds = seconds_of(lambda: kept.append(prefill(model, prompt, schedule, selector)), model.device)
    return seconds, kept[0].layer_tokens[0], kept[0].kv_bytes, peak_memory_bytes(model.device)


def _timed_first_token(
    model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector | None
) -> Callable[[], float]:
    """Return a call that gives the seconds until the first token is known on the host."""
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
    """Add the counted FLOPs to the points of the shortest length, after everything else: counting is slow and measures no time."""
    points: list[Row] = [point for point in file.points if point["status"] == "ok"]
    shortest = min((point["prompt_tokens"] for point in points), default=0)
    for point in points:
        if point["prompt_tokens"] == shortest:
            schedule, selector = variants[point["keep"]]
            point["counted_flops"] = count_flops(partial(prefill, model, make_random_prompt(model, shortest), schedule, selector))
            file.save()


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what a terminal shows of each point."""
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
