"""Peak memory of a prefill by prompt length, baseline and pruned, measured and by formula, up to the limit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from erecap.engine.prefill import prefill
from erecap.models.device import peak_memory_bytes, reset_peak_memory, synchronize
from erecap.models.out_of_memory import out_of_memory
from erecap.profiling.memory_formula import config_bytes, prefill_bytes
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.shapes import make_random_prompt
from erecap.profiling.time_budget import TimeBudget
from erecap.profiling.variants import Variants
from erecap.schedule import PruneSchedule, layer_tokens

Measure = Callable[[int, float, float], Row]
"""Prefills: prompt length in tokens, keep ratio, and the seconds that are left."""


@dataclass(frozen=True)
class MemoryPlan:
    """Settings of the measurement.

    Attributes
    ----------
    lengths
        Prompt lengths in tokens, rising.
    schedules
        Schedules by keep ratio.
    seconds
        Seconds that the whole measurement may take.
    limit_bytes
        Memory that may be used, model included; ``None`` where that is unknown. What the formula puts above it is not run.
    """

    lengths: Sequence[int]
    schedules: Mapping[float, PruneSchedule]
    seconds: float
    limit_bytes: int | None = None


def profile_memory(config: PretrainedConfig, dtype: torch.dtype, measure: Measure, plan: MemoryPlan, file: ResultFile) -> None:
    """Prefill once per length and variant, and add a point each to ``file``. A variant that runs out of memory ends there.

    A point holds ``prompt_tokens``; ``keep``, the keep ratio; ``formula_prefill_bytes`` and, with the weights, ``formula_bytes``
    (``memory_formula``); and ``status``. Where ``status`` is ``ok``, it also holds what ``measure`` returns.

    Parameters
    ----------
    config
        The model's config.
    dtype
        Dtype of its weights.
    measure
        Measures one prefill: ``measure_on_gpu``, or ``memory_child.measure_in_child`` on a CPU.
    plan
        What to measure.
    file
        Gets the points.
    """
    budget, over = TimeBudget(config, plan.seconds, flops_per_s=inf), set[float]()  # no rate is known: the first prefill is run
    file.expect(len(plan.lengths) * len(plan.schedules))
    for length in plan.lengths:
        for keep, schedule in plan.schedules.items():
            entered = layer_tokens(schedule, config.num_hidden_layers, np.zeros(length, np.bool_))
            point = {"prompt_tokens": length, "keep": keep, **_formula(config, dtype, entered)}
            if keep in over:
                point["status"] = "left out: a shorter prompt ran out of memory"
            elif plan.limit_bytes is not None and point["formula_bytes"] > plan.limit_bytes:
                point["status"] = f"out of memory: by the formula it exceeds the limit of {plan.limit_bytes / 1e9:.2f} GB"
            elif budget.left_s < budget.predict_s(entered):
                point["status"] = "left out: it would take longer than --seconds allows"
            else:
                file.begin(f"{length} tokens, keep {keep:g}")
                began = perf_counter()
                point |= measure(length, keep, budget.left_s)
                budget.learn(entered, point.get("ttft_s", perf_counter() - began))
            if point["status"].startswith("out of memory"):
                over.add(keep)
            file.add(point)


def _formula(config: PretrainedConfig, dtype: torch.dtype, entered: Sequence[int]) -> Row:
    beyond_weights = prefill_bytes(config, dtype, entered)
    return {"formula_prefill_bytes": beyond_weights, "formula_bytes": beyond_weights + config_bytes(config, dtype)}


def measure_on_gpu(model: PreTrainedModel, variants: Variants, length: int, keep: float, seconds: float) -> Row:
    """Prefill on the model's GPU.

    Returns
    -------
    dict
        ``status``. Where it is ``ok`` also ``ttft_s``, ``kv_bytes``, ``peak_memory_bytes`` of torch's tensors, ``prefill_bytes``
        (the peak without what was there before), and ``reserved_bytes``, the peak of what torch's allocator took.
    """
    prompt, device = make_random_prompt(model, length), model.device
    torch.cuda.empty_cache()
    reset_peak_memory(device)
    before, began = torch.cuda.memory_allocated(device), perf_counter()
    try:
        result = prefill(model, prompt, *variants[keep])
        synchronize(device)
    except RuntimeError as error:
        status = out_of_memory(error)
        if status is None:
            raise
        return {"status": status}
    peak = peak_memory_bytes(device)
    return {
        "status": "ok",
        "ttft_s": perf_counter() - began,
        "kv_bytes": result.kv_bytes,
        "peak_memory_bytes": peak,
        "prefill_bytes": peak - before,
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
    }


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    short = {"tokens": point["prompt_tokens"], "keep": point["keep"], "status": point["status"]}
    measured, formula = point.get("prefill_bytes"), point.get("formula_prefill_bytes")
    return short | {
        "prefill MB": _scaled(point, "prefill_bytes", 1e6, 1),
        "formula MB": _scaled(point, "formula_prefill_bytes", 1e6, 1),
        "of formula": f"{measured / formula:.0%}" if measured is not None and formula else "",
        "KV MB": _scaled(point, "kv_bytes", 1e6, 1),
        "peak GB": _scaled(point, "peak_memory_bytes", 1e9, 2),
        "formula GB": _scaled(point, "formula_bytes", 1e9, 2),
        "seconds": _scaled(point, "ttft_s", 1, 2),
    }


def _scaled(point: Row, name: str, unit: float, digits: int) -> str:
    return f"{point[name] / unit:.{digits}f}" if name in point else ""
