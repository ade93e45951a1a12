"""Checks of GPUs, communication between devices, and attention kernels."""

import shutil
import subprocess
from importlib.util import find_spec

import torch

from erecap.models.device import default_dtype, dtype_name
from erecap.profiling.doctor.finding import Check
from erecap.profiling.rates_profile import BACKENDS, refusal

_OLDEST_WITH_BFLOAT16 = (8, 0)


def check_gpus(device: torch.device) -> list[Check]:
    """Check that torch sees the GPUs that are there, and list them with their driver."""
    driver, count = _driver(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return [Check("gpu driver", "ok", f"{driver or 'unknown'}, CUDA {torch.version.cuda} of torch"), *map(_gpu, range(count))]
    if driver is None:
        return [Check("gpu", "ok", "none; everything runs on the CPU")]
    remedy = f"install a CUDA build of torch; this one is {torch.__version__}"
    if torch.version.cuda is not None:
        remedy = f"update the driver, or install a torch for an older CUDA: this one needs CUDA {torch.version.cuda}"
    return [Check("gpu", "error", f"driver {driver} is there, and torch sees no GPU", remedy)]


def _driver() -> str | None:
    """Return the version of NVIDIA's driver; ``None`` where there is none."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    command = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def _gpu(index: int) -> Check:
    known, (free, total) = torch.cuda.get_device_properties(index), torch.cuda.mem_get_info(index)
    found = f"{known.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, compute capability {known.major}.{known.minor}"
    if (known.major, known.minor) < _OLDEST_WITH_BFLOAT16:
        return Check(f"gpu {index}", "warning", found, "it has no bfloat16: give dtype=float16")
    if free < total / 2:
        return Check(f"gpu {index}", "warning", found, "another process holds most of it: end it (nvidia-smi names it)")
    return Check(f"gpu {index}", "ok", found)


def check_communication(device: torch.device) -> list[Check]:
    """Check what processes can exchange tensors by."""
    if not torch.distributed.is_available():
        remedy = "several devices need a torch that is built with distributed"
        return [Check("communication", "warning", "torch.distributed is not built in", remedy)]
    gloo = "gloo" if torch.distributed.is_gloo_available() else "no gloo"
    if not torch.cuda.is_available():
        return [Check("communication", "ok", f"{gloo}; NCCL needs GPUs")]
    if not torch.distributed.is_nccl_available():
        remedy = "several GPUs need it: install a torch with NCCL (Linux builds for CUDA have it)"
        return [Check("communication", "warning", f"{gloo}; no NCCL", remedy)]
    version = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return [Check("communication", "ok", f"NCCL {version}, {gloo}")]


def check_attention(device: torch.device) -> list[Check]:
    """Run each attention kernel of torch once on ``device``, in its fast dtype."""
    dtype = default_dtype(device)
    refused = {name: refusal(name, device, dtype) for name in BACKENDS}
    able = [name for name, reason in refused.items() if reason is None]
    package = "package flash-attn" if find_spec("flash_attn") else "package flash-attn is not needed and not there"
    found = f"{', '.join(able) or 'none'} on {device} in {dtype_name(dtype)}; {package}"
    if able and able != ["math"]:
        return [Check("attention kernels", "ok", found)]
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items() if reason)
    remedy = f"long prompts will be slow and large: use a newer torch or GPU, or dtype=bfloat16 ({reasons})"
    return [Check("attention kernels", "warning" if able else "error", found, remedy)]
