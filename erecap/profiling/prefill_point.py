"""What is known of one variant at one prompt length: the point of the result file, and its row of the table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from erecap.calibration.flops import ceiling, prefill_flops
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.flop_count import analytic_flops
from erecap.profiling.results import Row
from erecap.profiling.stage_cost import measure_stage_cost
from erecap.profiling.table import flops_rate
from erecap.profiling.timing import quantiles_ms, ratio_quartiles
from erecap.profiling.variants import Variant
from erecap.schedule import PruneSchedule
from erecap.selectors import Selector


@dataclass(frozen=True)
class Measured:
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
        Peak memory of the first prefill, in bytes; ``None`` on a CPU, where ``memory`` measures it in processes of their own.
    stock_s
        Seconds of stock ``generate`` with one token in the same rounds; empty where it was not timed.
    """

    first_s: float
    rounds_s: Sequence[float]
    layer_tokens: tuple[int, ...]
    kv_bytes: int
    peak_bytes: int | None
    stock_s: Sequence[float] = ()


def make_point(
    model: PreTrainedModel,
    prompt: TokenizedPrompt,
    keep: float,
    variant: Variant,
    measured: dict[float, Measured],
    matmul_rate: float,
) -> Row:
    """Return the point of the variant ``keep`` (its keys: ``profile_prefill``). Runs the prompt for the cost of stages."""
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
        **_stock(own),
        "layer_tokens": list(own.layer_tokens),
        "kept_share": sum(own.layer_tokens) / len(own.layer_tokens) / length,
        "final_share": own.layer_tokens[-1] / length,
        "analytic_flops": _on_paper(model, variant[0], own.layer_tokens),
        "prefill_flops": flops,
        "achieved_flops_per_s": flops / seconds,
        "share_of_matmul": flops / seconds / matmul_rate,
        "kv_bytes": own.kv_bytes,
        **({} if own.peak_bytes is None else {"peak_memory_bytes": own.peak_bytes}),
        **_stage_shares(model, prompt, *variant),
    }


def _against_baseline(model: PreTrainedModel, own: Measured, baseline: Measured | None) -> Row:
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


def _stock(own: Measured) -> Row:
    if not own.stock_s:
        return {}
    return {
        **quantiles_ms("stock_ttft", own.stock_s),
        **ratio_quartiles("stock_over_baseline", own.stock_s, own.rounds_s),
    }


def _on_paper(model: PreTrainedModel, schedule: PruneSchedule, layer_tokens: Sequence[int]) -> int:
    scored = [
        stage.after_layer for stage in schedule.stages if layer_tokens[stage.after_layer + 1] < layer_tokens[stage.after_layer]
    ]
    return analytic_flops(model.config, layer_tokens, sum(layer_tokens[layer] for layer in scored))


def _stage_shares(model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector | None) -> Row:
    if selector is None:
        return {"scoring_share": 0.0, "selecting_share": 0.0, "dropping_share": 0.0}
    cost = measure_stage_cost(model, prompt, schedule, selector)
    return {"scoring_share": cost.scoring, "selecting_share": cost.selecting, "dropping_share": cost.dropping}


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    short = {"tokens": point["prompt_tokens"], "keep": point["keep"]}
    if point["status"] != "ok":
        return short | {"status": point["status"]}
    shares = [point[f"{name}_share"] for name in ("scoring", "selecting", "dropping") if f"{name}_share" in point]
    return short | {
        "kept": f"{point['kept_share']:.0%}",
        "ttft ms": f"{point['median_ttft_ms']:.1f}",
        "speedup": _ratio(point, "speedup"),
        "ceiling": f"{point['ceiling']:.2f}",
        "of ceiling": _percent(point, "share_of_ceiling"),
        "new ms": f"{point['median_new_ttft_ms']:.1f}" if "median_new_ttft_ms" in point else "",
        "new speedup": _ratio(point, "new_speedup"),
        "of met": _percent(point, "new_speedup_of_met"),
        "stock ms": f"{point['median_stock_ttft_ms']:.1f}" if "median_stock_ttft_ms" in point else "",
        "rate": flops_rate(point["achieved_flops_per_s"]),
        "of matmul": f"{point['share_of_matmul']:.1%}",
        "stages": f"{sum(shares):.2%}" if shares else "",
        "KV MB": f"{point['kv_bytes'] / 1e6:.1f}",
        "status": "ok",
    }


def _ratio(point: Row, name: str) -> str:
    return f"{point[name]:.2f}" if name in point else ""


def _percent(point: Row, name: str) -> str:
    return f"{point[name]:.1%}" if name in point else ""
