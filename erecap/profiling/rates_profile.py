"""Measured rates of the machine: a large matrix product, a large copy, and each attention kernel."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PretrainedConfig

from erecap.models.device import dtype_name
from erecap.profiling.table import flops_rate
from erecap.profiling.timing import seconds_of

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Kernels of torch's attention function, by their names for the option ``--sdpa-backend``."""

_WARM_UPS, _REPEATS = 3, 10


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int | None = None) -> dict[str, Any]:
    """Measure a product of two random square matrices ``matmul_size`` wide: ``matmul_flops_per_s``, the median of ten."""
    size = size or (8192 if device.type == "cuda" else 1024)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = _median_seconds(lambda: left @ right, device)
    return {"matmul_size": size, "matmul_dtype": dtype_name(dtype), "matmul_flops_per_s": 2 * size**3 / seconds}


def copy_rate(device: torch.device, size_bytes: int | None = None) -> dict[str, Any]:
    """Measure a copy within the device's memory: ``copy_bytes_per_s``, bytes read plus bytes written, the median of ten."""
    size_bytes = size_bytes or (4 << 30 if device.type == "cuda" else 64 << 20)
    source = torch.empty(size_bytes // 4, device=device).normal_()
    target = torch.empty_like(source)
    seconds = _median_seconds(lambda: target.copy_(source), device)
    return {"copy_size_bytes": size_bytes, "copy_bytes_per_s": 2 * size_bytes / seconds}


def attention_rates(
    config: PretrainedConfig, device: torch.device, dtype: torch.dtype, lengths: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Measure causal attention of one layer of ``config`` with each kernel, at each of ``lengths`` (tokens).

    Each row comes as soon as it is measured. It holds ``kernel``, ``tokens`` and ``status``. Where ``status`` is ``ok``, it also
    holds ``attention_ms``, the median of ten, and ``attention_flops_per_s``, which counts causal pairs only. Where a kernel refuses
    the shape or runs out of memory, ``status`` gives the reason.
    """
    return (_attention_row(config, device, dtype, name, length) for length in lengths for name in BACKENDS)


def _attention_row(config: PretrainedConfig, device: torch.device, dtype: torch.dtype, name: str, length: int) -> dict[str, Any]:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    query, key, value = (
        torch.randn(1, count, length, head_dim, device=device, dtype=dtype) for count in (heads, kv_heads, kv_heads)
    )
    row: dict[str, Any] = {"kernel": name, "tokens": length}
    if name == "math" and length > 4096:
        return row | {"status": "left out: it stores all attention scores at once"}
    try:
        with sdpa_kernel([BACKENDS[name]]):
            seconds = _median_seconds(
                lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True), device
            )
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        return row | {"status": f"refused: {str(error).splitlines()[0][:160]}"}
    flops = 4 * heads * head_dim * (length * (length + 1) // 2)
    return row | {"status": "ok", "attention_ms": seconds * 1e3, "attention_flops_per_s": flops / seconds}


def refusal(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Run the attention kernel ``name`` once on a small input. Return the reason where it refuses, else ``None``."""
    query = torch.randn(1, 2, 64, 64, device=device, dtype=dtype)
    try:
        with sdpa_kernel([BACKENDS[name]]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch also warns of each kernel that it passes over
            torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    except RuntimeError as error:
        return str(error).splitlines()[0][:160]
    return None


def _median_seconds(call: Callable[[], object], device: torch.device) -> float:
    for _ in range(_WARM_UPS):
        call()
    return median(seconds_of(call, device) for _ in range(_REPEATS))


def summary_rows(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the table row of each rate."""
    return [_summary(point) for point in points]


def _summary(point: Mapping[str, Any]) -> dict[str, Any]:
    if "matmul_flops_per_s" in point:
        size = f"{point['matmul_size']} x {point['matmul_size']} {point['matmul_dtype']}"
        return {"what": "matrix product", "of": size, "rate": flops_rate(point["matmul_flops_per_s"])}
    if "copy_bytes_per_s" in point:
        size = f"{point['copy_size_bytes'] / 1e6:.0f} MB"
        return {"what": "copy", "of": size, "rate": f"{point['copy_bytes_per_s'] / 1e9:.1f} GB/s"}
    row = {"what": f"attention, {point['kernel']}", "of": f"{point['tokens']} tokens"}
    if point["status"] != "ok":
        return row | {"status": point["status"]}
    return row | {
        "ms": f"{point['attention_ms']:.3g}",
        "rate": flops_rate(point["attention_flops_per_s"]),
        "status": "ok",
    }
