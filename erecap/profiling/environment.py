"""Facts about the machine and the model, for result files."""

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from transformers import PretrainedConfig

from erecap.models.device import device_name, dtype_name

_GPU_FIELDS = ("name", "driver_version", "memory.total", "clocks.max.sm", "clocks.sm", "power.limit", "temperature.gpu")


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return facts about ``device`` and the software on it.

    Returns
    -------
    dict
        ``device`` and ``device_name``; versions of ``python``, ``torch``, ``transformers`` and ``numpy``; ``cpu_count``, logical
        cores; ``threads``, CPU threads of torch. On a GPU also the versions ``cuda`` and ``cudnn``, and ``gpu``: ``total_bytes``,
        ``multiprocessors`` (their number), and fields of nvidia-smi with their units.
    """
    facts: dict[str, Any] = {
        "device": str(device),
        "device_name": device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        cudnn: Any = torch.backends.cudnn  # untyped
        facts |= {"cuda": torch.version.cuda, "cudnn": cudnn.version(), "gpu": _gpu_facts(device)}
    return facts


def _gpu_facts(device: torch.device) -> dict[str, Any]:
    known = torch.cuda.get_device_properties(device)
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        answer = f"nvidia-smi does not answer: {error}"
    read = dict(zip(_GPU_FIELDS, (part.strip() for part in answer.split(",")), strict=False))
    return {"total_bytes": known.total_memory, "multiprocessors": known.multi_processor_count, **read}


def model_facts(config: PretrainedConfig, name: str, dtype: torch.dtype, attention: str) -> dict[str, Any]:
    """Return the model's name, dtype, attention function and sizes (the last as the config names them)."""
    keys = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    return {
        "model_id": name,
        "dtype": dtype_name(dtype),
        "attention": attention,
        **{key: getattr(config, key) for key in keys},
    }


def command_line(prog: str, words: Sequence[str]) -> str:
    """Return the command line ``prog words``, quoted for a shell. The directory of ``--out`` is left out."""
    shown = [Path(word).name if before == "--out" else word for before, word in pairwise(["", *words])]
    return " ".join([prog, shlex.join(shown)])
