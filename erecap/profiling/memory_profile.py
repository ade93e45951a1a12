"""Peak memory of a prefill by prompt length, baseline and pruned, measured and by formula, up to the device's limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from erecap.calibration.flops import prefill_flops
from erecap.engine.prefill import prefill
from erecap.models.device import peak_memory_bytes, reset_peak_memory, synchronize
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.shapes import make_random_prompt, weight_bytes
from erecap.profiling.variants import Variants
from erecap.schedule import PruneSchedule


@dataclass(frozen=True)
class MemoryPlan:
    """Settings of the measurement.

    Attributes
    ----------
    lengths
        Prompt lengths in tokens, rising.
    seconds
        Seconds that the whole measurement may take.
    """

    lengths: Sequence[int]
    seconds: float


def profile_memory(model: PreTrainedModel, variants: Variants, plan: MemoryPlan, file: ResultFile) -> None:
    """Prefill once per length and variant, and add a point each to ``file``. A variant that runs out of memory ends there.

    A point holds ``prompt_tokens``; ``keep``, the keep ratio; ``formula_bytes`` (the function of that name); and ``status``. Where
    ``status`` is ``ok``, it also holds ``ttft_s``, ``kv_bytes``, ``peak_memory_bytes`` and, on a GPU, ``reserved_bytes``, the peak
    of what torch's allocator took from the device.
    """
    end, rate, over = perf_counter() + plan.seconds, 0.0, set[float]()
    for length in plan.lengths:
        for keep, (schedule, selector) in variants.items():
            if keep in over:
                continue
            point: Row = {"prompt_tokens": length, "keep": keep}
            layer_tokens = _expected_tokens(model.config, schedule, length)
            flops = sum(prefill_flops(model.config, layer_tokens))
            point["formula_bytes"] = formula_bytes(model, layer_tokens)
            if rate and flops / rate > end - perf_counter():
                file.add(point | {"status": "left out: it would take longer than --seconds allows"})
                continue
            began = perf_counter()
            point |= _measure(model, length, schedule, selector)
            if point["status"] == "ok":
                rate = flops / (perf_counter() - began)
            else:
                over.add(keep)
            file.add(point)


def _measure(model: PreTrainedModel, length: int, schedule: PruneSchedule, selector: Any) -> Row:
    prompt, device = make_random_prompt(model, length), model.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
    reset_peak_memory(device)
    began = perf_counter()
    try:
        result = prefill(model, prompt, schedule, selector)
        synchronize(device)
    except torch.OutOfMemoryError as error:
        return {"status": f"out of memory: {str(error).splitlines()[0][:200]}"}
    row = {
        "status": "ok",
        "ttft_s": perf_counter() - began,
        "kv_bytes": result.kv_bytes,
        "peak_memory_bytes": peak_memory_bytes(device),
    }
    if device.type == "cuda":
        row["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
    return row


def _expected_tokens(config: PretrainedConfig, schedule: PruneSchedule, length: int) -> list[int]:
    """Estimate the tokens that enter each layer. Forced tokens are ignored: they matter only in short prompts."""
    keep = {stage.after_layer: stage.keep for stage in schedule.stages}
    tokens = [float(length)]
    for layer in range(config.num_hidden_layers - 1):
        tokens.append(tokens[-1] * keep.get(layer, 1.0))
    return [max(1, round(count)) for count in tokens]


def formula_bytes(model: PreTrainedModel, layer_tokens: Sequence[int]) -> int:
    """Compute the peak memory of a prefill in bytes: weights, plus the largest sum of cache and activations over layers.

    Activations are three rows of the MLP's width and three of the model's width per token, as a gated MLP holds them at once.
    """
    config, size = model.config, next(model.parameters()).element_size()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv = 2 * config.num_key_value_heads * head_dim * size
    per_token = 3 * (config.intermediate_size + config.hidden_size) * size
    peaks = [kv * sum(layer_tokens[: layer + 1]) + per_token * tokens for layer, tokens in enumerate(layer_tokens)]
    return int(weight_bytes(model) + max(peaks))


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    short = {"tokens": point["prompt_tokens"], "keep": point["keep"], "formula GB": f"{point['formula_bytes'] / 1e9:.2f}"}
    if point["status"] != "ok":
        return short | {"status": point["status"]}
    return short | {
        "peak GB": f"{point['peak_memory_bytes'] / 1e9:.2f}",
        "KV GB": f"{point['kv_bytes'] / 1e9:.3f}",
        "seconds": f"{point['ttft_s']:.2f}",
        "status": "ok",
    }
