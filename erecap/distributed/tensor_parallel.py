"""Tensor parallelism as transformers does it: every rank holds a part of each layer, and the ranks add up their results.

What differs between the supported releases of transformers is here: how such a model is asked for (``DistributedConfig`` or
``tp_plan``), and whether its weights are ``DTensor`` objects or plain parts.
"""

from dataclasses import fields
from math import gcd
from typing import Any

import torch
from torch import Tensor, distributed
from transformers import PretrainedConfig, PreTrainedModel

_DIVIDED = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
"""Sizes of a config that are divided among the ranks."""


class UnevenRanksError(ValueError):
    """An error for a model that cannot be divided among that many ranks."""


def check_divides(config: PretrainedConfig, ranks: int) -> None:
    """Raise ``UnevenRanksError`` where heads, KV heads or the MLP's width cannot be divided among ``ranks`` processes."""
    sizes = {name: int(getattr(config, name)) for name in _DIVIDED if getattr(config, name, None)}
    uneven = [f"{name}={size}" for name, size in sizes.items() if size % ranks]
    if uneven:
        common = gcd(*sizes.values())
        possible = [str(number) for number in range(1, common + 1) if common % number == 0]
        raise UnevenRanksError(
            f"{' and '.join(uneven)} cannot be divided among {ranks} ranks: start {' or '.join(possible)} of them "
            "(torchrun --nproc-per-node), or put whole layers on several devices with device_map=auto in one process"
        )


def load_options(ranks: int) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that divide a model among ``ranks`` processes, by the model's own plan."""
    from transformers.distributed.configuration_utils import DistributedConfig

    if "tp_size" in {field.name for field in fields(DistributedConfig)}:
        return {"distributed_config": DistributedConfig(tp_size=ranks, tp_plan="auto")}
    return {"tp_plan": "auto", "tp_size": ranks}  # releases before DistributedConfig had sizes


def ranks_of(model: PreTrainedModel) -> int:
    """Return the number of processes among which ``model`` is divided; 1 for a whole model."""
    return getattr(model, "_tp_size", None) or 1


def share_from_first(model: PreTrainedModel, tensor: Tensor) -> Tensor:
    """Return what the first of the model's ranks passes here; ``tensor`` itself for a whole model.

    Every rank computes the same from the same inputs, up to rounding that may differ between kinds of devices. A decision, such as
    which tokens to keep, must be one for all ranks, or their tensors would no longer fit together. On a GPU the host does not wait.

    Parameters
    ----------
    model
        The model; all its ranks call this together.
    tensor
        A tensor of the same shape and dtype on every rank.
    """
    if ranks_of(model) == 1:
        return tensor
    group = _group(model)
    shared = tensor.contiguous()
    distributed.broadcast(shared, src=distributed.get_global_rank(group, 0), group=group)
    return shared


def gather_heads(model: PreTrainedModel, heads: Tensor) -> Tensor:
    """Collect attention heads from all ranks, ``(batch, n, own heads, head_dim)`` to ``(batch, n, heads, head_dim)``."""
    ranks = ranks_of(model)
    if ranks == 1:
        return heads
    parts = [torch.empty_like(heads, memory_format=torch.contiguous_format) for _ in range(ranks)]
    distributed.all_gather(parts, heads.contiguous(), group=_group(model))
    return torch.cat(parts, dim=2)


def whole_weight(model: PreTrainedModel, name: str, weight: Tensor) -> Tensor:
    """Collect a weight from all ranks. Every rank must call this, for the same weights in the same order.

    Parameters
    ----------
    model
        The model.
    name
        Name of the weight in ``model``.
    weight
        The weight, or this rank's part of it.
    """
    if ranks_of(model) == 1:
        return weight
    if hasattr(weight, "full_tensor"):  # a DTensor
        return weight.full_tensor()  # type: ignore[no-any-return]  # DTensor's method is untyped
    from transformers.integrations.tensor_parallel import gather_state_dict_for_save

    parts: Any = model
    return gather_state_dict_for_save({name: weight}, parts._tp_plan, parts._device_mesh, ranks_of(model))[name]


def own_part(weight: Tensor) -> Tensor:
    """Return the part of ``weight`` that this rank holds; for a whole model the weight itself."""
    held: Any = weight
    return held.to_local() if hasattr(held, "to_local") else weight  # a DTensor


def held_bytes(weight: Tensor) -> int:
    """Return the bytes of ``weight`` that this rank holds; for a whole model all of them."""
    return int(own_part(weight).nbytes)


def _group(model: PreTrainedModel) -> "distributed.ProcessGroup":
    """Return the process group among which ``model`` is divided."""
    parts: Any = model
    mesh = parts._device_mesh  # in newer releases with one axis per kind of parallelism
    return mesh.get_group("tp" if "tp" in (mesh.mesh_dim_names or ()) else None)  # type: ignore[no-any-return]
