"""The identity of a model, by which a pruner recognises the model that it was trained for."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from erecap.distributed.tensor_parallel import own_part, whole_weight

_CONFIG_KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_HASHED_ANEW_BELOW = 256 << 20
_ADAPTER, _ADAPTED = ".lora_", ".base_layer."


@dataclass(frozen=True)
class ModelIdentity:
    """A model, identified by its shape and all of its weights.

    Attributes
    ----------
    name
        Hub id or directory name, for messages; ``matches`` ignores it.
    checksum
        Hash of shape and weights, each rounded to bfloat16, 16 hex digits: the same for a model in float32 and in bfloat16.
    num_layers
        Number of decoder layers.
    hidden_size
        Width of the residual stream.
    exact
        Hash of shape and unrounded weights, 16 hex digits; ``checksum`` where rounding changes nothing. Empty if unknown.
    """

    name: str
    checksum: str
    num_layers: int
    hidden_size: int
    exact: str = ""

    def matches(self, other: "ModelIdentity") -> bool:
        """Tell whether both identify the same weights, or one of them the other's rounded to bfloat16."""
        rounded = (self.checksum, self.num_layers, self.hidden_size) == (other.checksum, other.num_layers, other.hidden_size)
        return rounded and (self.exact == other.exact or any(one.exact in ("", one.checksum) for one in (self, other)))

    def describe(self) -> str:
        """Write the identity as one phrase for error messages."""
        return f"{self.name} ({self.num_layers} layers of width {self.hidden_size}, checksum {self.checksum})"


def identify(model: PreTrainedModel, name: str | None = None) -> ModelIdentity:
    """Identify a model.

    Every bit of the weights counts. A model of more than 256 MiB is hashed again only after torch has moved or changed a weight.
    Weights that accelerate has offloaded to disk or host memory are fetched one module at a time. The ranks of a divided model
    collect one weight at a time, so all of them must call this together. LoRA adapters (PEFT) are skipped: a model with an adapter
    counts as its base model. The base model's pruner fits it if the adapter changes hidden states little.

    Parameters
    ----------
    model
        The model.
    name
        Its name. Default: the hub id or the directory's name, never a whole path.
    """
    config, (rounded, exact) = model.config, _remembered_hashes(model)
    return ModelIdentity(
        name or _readable_name(config.name_or_path or ""), rounded, config.num_hidden_layers, config.hidden_size, exact
    )


_hashes: WeakKeyDictionary[PreTrainedModel, tuple[object, tuple[str, str]]] = WeakKeyDictionary()


def _remembered_hashes(model: PreTrainedModel) -> tuple[str, str]:
    """Return the hashes of a model; those of a large one are kept until a weight has another address or version."""
    weights = [own_part(weight) for weight in model.parameters()]
    if any(weight.is_meta for weight in weights) or sum(weight.nbytes for weight in weights) < _HASHED_ANEW_BELOW:
        return _hash(model)
    state = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]
    known, hashes = _hashes.get(model, (None, ("", "")))
    if known != state:
        _hashes[model] = (state, hashes := _hash(model))
    return hashes


def _hash(model: PreTrainedModel) -> tuple[str, str]:
    """Hash shape and weights, rounded to bfloat16 and as they are; both the same where rounding changes no weight."""
    shape = json.dumps({key: getattr(model.config, key) for key in _CONFIG_KEYS}).encode()
    rounded, exact = hashlib.sha256(shape), hashlib.sha256(shape)
    for key, weight in sorted(model.named_parameters()):
        if _ADAPTER in key:
            continue
        owner, _, _ = key.rpartition(".")
        with _fetched(model.get_submodule(owner)) if weight.is_meta else nullcontext():
            whole = whole_weight(model, key, model.get_parameter(key)).detach()
            for digest in (rounded, exact):
                digest.update(key.replace(_ADAPTED, ".").encode())
            _update(rounded, exact, whole)
    return rounded.hexdigest()[:16], exact.hexdigest()[:16]


def _update(rounded: Any, exact: Any, weight: torch.Tensor) -> None:
    """Add a weight to both digests: where rounding changes nothing, the same bytes to both."""
    short = weight.to(torch.bfloat16)
    for digest, values in ((rounded, short), (exact, short if torch.equal(short.to(weight.dtype), weight) else weight)):
        digest.update(raw_bytes(values))


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor's values, for checksums; of one that is not empty, since torch has no bytes of that."""
    return tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data


@contextmanager
def _fetched(module: nn.Module) -> Iterator[None]:
    """Hold the module's offloaded weights in memory, as accelerate's hook does for each forward."""
    hook: Any = module._hf_hook
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def _readable_name(name_or_path: str) -> str:
    if not name_or_path:
        return "unnamed model"
    return Path(name_or_path).resolve().name if Path(name_or_path).exists() else name_or_path


def check_finite(module: nn.Module, what: str) -> None:
    """Raise ``ValueError`` where a weight of ``module`` is NaN or infinite. Weights that are offloaded are not looked at.

    Parameters
    ----------
    module
        A model or a pruner.
    what
        Its name, for the message.
    """
    for name, weight in module.named_parameters():
        if not weight.is_meta and not bool(torch.isfinite(own_part(weight)).all()):
            raise ValueError(
                f"the weight {name} of {what} has values that are NaN or infinite: the file is damaged, or its training diverged; "
                "copy it again, or train again"
            )
