"""Checks of processor, memory and disk."""

import os
import shutil
from pathlib import Path

import torch

from erecap.models.device import default_dtype, device_name, dtype_name
from erecap.models.host_memory import available_bytes
from erecap.profiling.doctor.finding import Check, Status

MEMORY_GIB = (1.0, 4.0)
"""Free memory below which there is an error, and a warning."""
DISK_GIB = (0.5, 5.0)
"""Free disk space below which there is an error, and a warning."""

_FLAGS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "neon", "sve", "bf16")
_FASTER = ("avx2", "avx512_f", "neon", "sve")


def check_cpu(device: torch.device) -> list[Check]:
    """Check the instructions that torch uses, and its number of threads."""
    cpu = torch.device("cpu")
    able = {name for name, there in torch.cpu.get_capabilities().items() if there is True}
    flags = " ".join(flag for flag in _FLAGS if flag in able)
    found = f"{device_name(cpu)}; {flags or 'no vector instructions that torch names'}; fast dtype {dtype_name(default_dtype(cpu))}"
    processor = Check("cpu", "ok", found)
    if not able & set(_FASTER):
        processor = Check(
            "cpu", "warning", found, "a prefill is several times slower without vector instructions: use another machine"
        )
    return [processor, _threads()]


def _threads() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    found = f"{threads} threads of torch, {cores} cores for this process"
    if threads <= cores:
        return Check("threads", "ok", found)
    return Check("threads", "warning", found, f"more threads than cores slow each other down: set OMP_NUM_THREADS={cores}")


def check_memory(device: torch.device) -> list[Check]:
    """Check the free memory of the machine, or of the container."""
    free = available_bytes()
    if free is None:
        return [Check("memory", "ok", "unknown on this system")]
    remedy = "end other processes, or raise the container's limit: the bundled planner takes 1 GiB, a model its weights and more"
    return [_at_least("memory", free, MEMORY_GIB, remedy)]


def check_disk(device: torch.device) -> list[Check]:
    """Check the free space where runs are written."""
    free = shutil.disk_usage(Path.cwd()).free
    return [_at_least(f"disk {Path.cwd()}", free, DISK_GIB, "free some space, or start elsewhere: runs are written below it")]


def _at_least(name: str, free: int, bounds_gib: tuple[float, float], remedy: str) -> Check:
    gib, (serious, little) = free / 2**30, bounds_gib
    status: Status = "error" if gib < serious else "warning" if gib < little else "ok"
    return Check(name, status, f"{gib:.1f} GiB free", "" if status == "ok" else remedy)
