"""Choice of device and dtype (on call, never at import), synchronization, and memory of a device."""

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from erecap.models.files import reason
from erecap.models.host_memory import available_bytes
from erecap.models.out_of_memory import out_of_memory

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class OutOfMemoryError(ValueError):
    """An error for a device without enough memory."""


def resolve_device(name: str | None = None) -> torch.device:
    """Return the device called ``name``, by default the GPU where there is one. Raise ``ValueError`` for a missing one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = _known_device(name)
    if device.type == "meta":
        raise ValueError(f"device {name!r} holds no numbers and computes nothing: use 'cpu', 'cuda' or 'cuda:0'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not there ({torch.cuda.device_count()} CUDA devices): use 'cpu' or leave the device out"
        )
    try:
        torch.ones(1, device=device).cpu()
    except Exception as error:  # each device's library raises errors of its own, ImportError among them
        raise ValueError(f"device {name!r} cannot be used here ({reason(error)}): use 'cpu' or leave the device out") from error
    return device


def _known_device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"device {name!r} is not known: use 'cpu', 'cuda' or 'cuda:0'") from error


def resolve_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the dtype called ``name``, by default the fast one on ``device``. Raise ``ValueError`` for an unknown name."""
    if name is None:
        return default_dtype(device)
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not known: use {' or '.join(DTYPES)}, or leave it out for the faster one")
    return DTYPES[name]


def default_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 for a GPU and for processors that multiply in it, else float32."""
    if device.type == "cuda" or (device.type == "cpu" and _cpu_multiplies_bfloat16()):
        return torch.bfloat16
    return torch.float32


@lru_cache(maxsize=1)
def _cpu_multiplies_bfloat16() -> bool:
    """Tell from the processor's flags. A timing could differ between a busy and an idle machine.

    With AVX512-BF16 or AMX, bfloat16 products run 1.2-3 times as fast as float32 ones. Without, they are emulated and slower.
    """
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def dtype_name(dtype: torch.dtype) -> str:
    """Return the dtype's name without ``torch.``: ``float32``."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """Name the hardware of ``device``: the GPU's name, or ``cpu`` and the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{device.type} ({names[0] if names else platform.machine()})"


def execution_device(module: nn.Module) -> torch.device:
    """Return the device on which ``module`` computes. It is not where its weights lie if accelerate has offloaded them.

    Raises
    ------
    StopIteration
        For a module without parameters that no hook of accelerate's puts on a device.
    """
    hook: Any = getattr(module, "_hf_hook", None)
    for part in getattr(hook, "hooks", (hook,)):
        device = getattr(part, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(module.parameters()).device


def synchronize(device: torch.device) -> None:
    """Wait for all work queued on ``device``. Does nothing on CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(*devices: torch.device) -> None:
    """Start a new measurement of ``peak_memory_bytes`` on GPUs. On CPU nothing can be reset."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(*devices: torch.device) -> int:
    """Return peak memory in bytes: on GPUs of tensors since ``reset_peak_memory``, else of the process since its start."""
    gpus = [device for device in devices if device.type == "cuda"]
    return sum(torch.cuda.max_memory_allocated(device) for device in gpus) if gpus else _peak_resident_bytes()


def release_cached_memory() -> None:
    """Return what torch's allocator keeps for later to the GPUs. Does nothing without one."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _peak_resident_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def check_free_memory(device: torch.device, needed: int, what: str) -> None:
    """Raise ``OutOfMemoryError`` where ``device`` has fewer than ``needed`` bytes free for ``what``, as far as that is known."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        there, remedy = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free", "end other processes on it"
    else:
        known = available_bytes() if device.type == "cpu" else None
        free = needed if known is None else known
        there, remedy = f"{free / 2**30:.1f} GiB free", "end other processes"
    if needed > free:
        elsewhere = "" if device.type == "cpu" else ", or device=cpu"
        raise OutOfMemoryError(
            f"{what} needs {needed / 2**30:.1f} GiB and {device} has {there}: {remedy}, or use a smaller model or "
            f"dtype=bfloat16{elsewhere}"
        )


@contextmanager
def explain_out_of_memory(device: torch.device, what: str) -> Iterator[None]:
    """Turn an out-of-memory error of a GPU or the host into an ``OutOfMemoryError`` that names the work (``what``) and remedies."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error) is None:
            raise
        release_cached_memory()
        remedies = "shorten the history, lower keep, use a smaller model or dtype=bfloat16"
        elsewhere = ", or device=cpu" if isinstance(error, torch.OutOfMemoryError) else ", or end other processes"
        raise OutOfMemoryError(f"{device} ran out of memory in {what}: {remedies}{elsewhere}") from error
