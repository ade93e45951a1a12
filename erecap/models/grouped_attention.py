"""Attention of a few new tokens to a long cache, with the query heads of a group as rows of one product.

In grouped-query attention several query heads read the same keys and values. A kernel that takes one head at a time reads them once
per head, and its products have one row each. With the heads of a group as rows the numbers are the same, the cache is read once,
and a product has as many rows as the group has heads. At 4,096 keys on a CPU this is 2 times faster in float32, 7 in bfloat16.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

KEYS_PER_PART = 1024
"""Fewest keys for which a thread of its own pays."""

MOST_NEW_TOKENS = 16
"""Largest number of new tokens for which the heads of a group are put together."""

_NAME = "erecap_grouped"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with the signature of transformers' attention functions.

    Parameters
    ----------
    module
        The attention module; not read.
    query
        ``(batch, heads, new, head_dim)``.
    key, value
        ``(batch, kv_heads, keys, head_dim)``, where ``kv_heads`` divides ``heads``.
    attention_mask
        Keys that each new token may attend to, bool ``(batch or 1, 1, new, keys)``. ``None`` lets it attend to all, so several new
        tokens need a mask.
    scaling
        Factor of the logits; default ``head_dim ** -0.5``.
    kwargs
        What transformers passes besides; not read.

    Returns
    -------
    tuple
        ``(batch, new, heads, head_dim)``, and ``None`` in place of the weights.
    """
    batch, heads, new, head_dim = query.shape
    group = heads // key.shape[1]
    rows = query.reshape(batch, key.shape[1], group * new, head_dim)
    if attention_mask is not None and new > 1:
        attention_mask = attention_mask.repeat(1, 1, group, 1)
    parts = 1 if attention_mask is not None else _parts(key)
    if parts == 1:
        out = nn.functional.scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    else:
        out = _attend_in_parts(rows, key, value, parts, scaling)
    return out.reshape(batch, heads, new, head_dim).transpose(1, 2), None


def _parts(key: Tensor) -> int:
    """Return the number of parts into which keys are cut so that each CPU thread has one; a kernel gives a thread whole heads."""
    if key.device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads() // (key.shape[0] * key.shape[1]), key.shape[2] // KEYS_PER_PART))


def _attend_in_parts(rows: Tensor, key: Tensor, value: Tensor, parts: int, scaling: float | None) -> Tensor:
    """Attend to equal parts of the keys, and to the few left over, and weight the results by their shares of the softmax.

    This is flash decoding (Dao et al., 2023), with torch's CPU kernel for each part. Shapes are those of ``grouped_attention``.
    """
    query, width = rows.flatten(0, 1)[:, None], key.shape[2] // parts
    even, left = zip(*(_cut(states.flatten(0, 1), parts, width) for states in (key, value)), strict=True)
    pieces = [_attend(query.expand(-1, parts, -1, -1), even[0], even[1], scaling)]
    if key.shape[2] > parts * width:
        pieces.append(_attend(query, left[0], left[1], scaling))
    out, logs = (torch.cat(pair, dim=1) for pair in zip(*pieces, strict=True))
    return (out * torch.softmax(logs, dim=1)[..., None].to(out.dtype)).sum(1).view_as(rows)


def _cut(states: Tensor, parts: int, width: int) -> tuple[Tensor, Tensor]:
    """Cut keys or values, ``(heads, keys, head_dim)``, into ``(heads, parts, width, head_dim)`` and what is left, as views."""
    even = states[:, : parts * width]
    return even.view(len(states), parts, width, -1), states[:, None, parts * width :]


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> tuple[Tensor, Tensor]:
    """Return attention, ``(batch, heads, rows, head_dim)``, and the log of its softmax's sum, ``(batch, heads, rows)``."""
    out, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)
    return out, logs


AttentionInterface.register(_NAME, grouped_attention)


@contextmanager
def heads_grouped(config: PretrainedConfig, kind: str, new_tokens: int, device: torch.device) -> Iterator[None]:
    """Let a model's layers run ``grouped_attention`` while the context is open, where it serves.

    It serves ``sdpa`` with few new tokens on a CPU. GPU kernels read grouped heads as they are.

    Parameters
    ----------
    config
        The model's config, from which its layers read the name of their attention function.
    kind
        That name, one of ``ATTENTION_KINDS``.
    new_tokens
        Tokens of each row that the layers will run.
    device
        The model's device.
    """
    if kind != "sdpa" or new_tokens > MOST_NEW_TOKENS or device.type != "cpu":
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = kind
