"""The identity of a model, by which a pruner recognises the model that it was trained for."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from erecap.distributed.tensor_parallel import whole_weight

_CONFIG_KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_SAMPLES_PER_TENSOR = 16
_ADAPTER, _ADAPTED = ".lora_", ".base_layer."


@dataclass(frozen=True)
class ModelIdentity:
    """A model, identified by its shape and a sample of its weights.

    Attributes
    ----------
    name
        Hub id or directory name, for messages; ``matches`` ignores it.
    checksum
        Hash of shape and sampled weights, 16 hex digits.
    num_layers
        Number of decoder layers.
    hidden_size
        Width of the residual stream.
    """

    name: str
    checksum: str
    num_layers: int
    hidden_size: int

    def matches(self, other: "ModelIdentity") -> bool:
        """Tell whether both identify the same weights."""
        return (self.checksum, self.num_layers, self.hidden_size) == (other.checksum, other.num_layers, other.hidden_size)

    def describe(self) -> str:
        """Write the identity as one phrase for error messages."""
        return f"{self.name} ({self.num_layers} layers of width {self.hidden_size}, checksum {self.checksum})"


def identify(model: PreTrainedModel, name: str | None = None) -> ModelIdentity:
    """Identify a model.

    Samples are rounded to bfloat16 before they are hashed, so that the same weights in float32 and in bfloat16 are one model.
    Weights that accelerate has offloaded to disk or host memory are fetched one module at a time. The ranks of a divided model
    collect one weight at a time, so all of them must call this together. LoRA adapters (PEFT) are skipped:
    a model with an adapter counts as its base model. The base model's pruner fits it if the adapter changes hidden states little.

    Parameters
    ----------
    model
        The model.
    name
        Its name. Default: the hub id or the directory's name, never a whole path.
    """
    digest = hashlib.sha256(json.dumps({key: getattr(model.config, key) for key in _CONFIG_KEYS}).encode())
    for key, weight in sorted(model.named_parameters()):
        if _ADAPTER in key:
            continue
        owner, _, _ = key.rpartition(".")
        with _fetched(model.get_submodule(owner)) if weight.is_meta else nullcontext():
            sample = _sample(whole_weight(model, key, model.get_parameter(key)))
            digest.update(key.replace(_ADAPTED, ".").encode() + sample)
    config = model.config
    return ModelIdentity(
        name or _readable_name(config.name_or_path or ""), digest.hexdigest()[:16], config.num_hidden_layers, config.hidden_size
    )


@contextmanager
def _fetched(module: nn.Module) -> Iterator[None]:
    """Hold the module's offloaded weights in memory, as accelerate's hook does for each forward."""
    hook: Any = module._hf_hook
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def _sample(weight: torch.Tensor) -> bytes:
    flat = weight.detach().flatten()
    return flat[:: max(1, flat.numel() // _SAMPLES_PER_TENSOR)].to(torch.bfloat16).float().cpu().numpy().tobytes()


def _readable_name(name_or_path: str) -> str:
    if not name_or_path:
        return "unnamed model"
    return Path(name_or_path).resolve().name if Path(name_or_path).exists() else name_or_path
