"""Causal attention for passes with gradients: fast kernels where stock attention takes slow ones.

- In grouped-query attention several query heads read the same keys and values. Torch's CPU kernel takes such heads as they are, but
  its backward pass is then 1.5 to 3 times slower than on keys and values that are repeated for each query head (torch 2.13, 6,000
  tokens, 4 query heads to a KV head).
- A bias per key with a gradient (``SoftMask``) as a mask of all queries and keys rules out the fused kernels, and takes memory that
  grows with the square of the length. As one more feature of each key, which every query multiplies by 1, it is part of the
  products that a fused kernel makes anyway.
- Branches behind a sequence (``TokenSequence.forks``) see a part of it. Only their own rows have a mask.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig

_NAME = "erecap_causal"
_MULTIPLE = 8  # fused kernels want head dims that this divides


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    branches: Sequence["Branches"] = (),
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally with the signature of transformers' attention functions.

    Parameters
    ----------
    module
        The attention module; not read.
    query
        ``(batch, heads, length, head_dim)``.
    key, value
        ``(batch, kv_heads, length, head_dim)``, where ``kv_heads`` divides ``heads``.
    attention_mask
        A bias per key, ``(batch, 1, 1, length)``, that is added to the logits of all queries; ``None`` for none.
    scaling
        Factor of the logits; default ``head_dim ** -0.5``.
    dropout
        Share of the weights to drop, 0..1.
    branches
        The branches of the rows that have some.
    kwargs
        What transformers passes besides; not read.

    Returns
    -------
    tuple
        ``(batch, length, heads, head_dim)``, and ``None`` in place of the weights.

    Raises
    ------
    ValueError
        For a mask that has a row per query.
    """
    width, scale = query.shape[-1], scaling or query.shape[-1] ** -0.5
    if attention_mask is not None:
        if attention_mask.shape[-2] != 1:
            raise ValueError(
                f"a mask of shape {tuple(attention_mask.shape)}: causal attention takes a bias per key, (batch, 1, 1, length)"
            )
        query, key, value = _with_bias(query, key, value, attention_mask / scale)
    keys, values = (_repeat(states, query.shape[1]) for states in (key, value))
    out = functional.scaled_dot_product_attention(query, keys, values, dropout_p=dropout, is_causal=True, scale=scale)
    if branches:
        out = _with_branches(out, query, keys, values, branches, scale)
    return out[..., :width].transpose(1, 2).contiguous(), None


@dataclass(frozen=True, eq=False)
class Branches:
    """The branches of rows that stand beside each other: what they see.

    Attributes
    ----------
    rows
        The rows in the batch, from the first to the one behind the last.
    begin, end
        Indices of the first token of the rows' branches, and of the one behind the last.
    visible
        Tokens of the row that each of them sees, bool ``(rows, end - begin, length)``.
    """

    rows: slice
    begin: int
    end: int
    visible: Tensor


def branches_of(forks: Tensor) -> tuple[list[Branches], Tensor]:
    """Find the branches of a batch, and the position of each token.

    Parameters
    ----------
    forks
        Int64 ``(rows, length)``, as in ``Batch.forks``: 0, or for tokens of a branch the number of tokens that it sees before it.

    Returns
    -------
    list of Branches
        One per row that has branches.
    Tensor
        Int64 ``(rows, length)``: the index of a token, in a branch counted from where it forks off.
    """
    positions, found = torch.arange(forks.shape[1], device=forks.device).expand_as(forks).clone(), list[Branches]()
    for row, own in enumerate(forks):
        inside = own.nonzero().flatten()
        if len(inside):
            rows, begin, end = slice(row, row + 1), int(inside[0]), int(inside[-1]) + 1
            visible, positions[rows, begin:end] = _seen(forks[rows], begin, end)
            found.append(Branches(rows, begin, end, visible))
    return found, positions


def branches_from(forks: Tensor, begin: int) -> tuple[list[Branches], Tensor]:
    """Do as ``branches_of`` for rows whose branches all lie behind ``begin``, in operations that depend on shapes alone.

    All tokens from there on have a mask, and nothing is read back from the device: a CUDA graph can hold it.
    """
    length = forks.shape[1]
    visible, behind = _seen(forks, begin, length)
    before = torch.arange(begin, device=forks.device).expand(len(forks), begin)
    return [Branches(slice(0, len(forks)), begin, length, visible)], torch.cat([before, behind], dim=1)


def _seen(forks: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Find what the tokens from ``begin`` to ``end`` see, bool ``(rows, end - begin, length)``, and their positions."""
    places = torch.arange(forks.shape[1], device=forks.device)
    mine, here = forks[:, begin:end], places[begin:end].expand(len(forks), -1)
    starts = torch.cat([torch.ones_like(mine[:, :1], dtype=torch.bool), mine[:, 1:] != mine[:, :-1]], dim=1)
    firsts = torch.where(starts, here, 0).cummax(1).values  # the first token of each token's branch
    seen, first = torch.where(mine > 0, mine, here), torch.where(mine > 0, firsts, here)  # outside branches all before it
    itself = (places >= first[..., None]) & (places <= here[..., None])
    return (places < seen[..., None]) | itself, seen + here - first


def _with_branches(out: Tensor, query: Tensor, key: Tensor, value: Tensor, branches: Sequence[Branches], scale: float) -> Tensor:
    """Replace the branches' rows of ``out``, ``(batch, heads, length, width)``, by attention to what they see."""
    parts, done = list[Tensor](), 0
    for one in branches:
        before, own = out[done : one.rows.start], out[one.rows]
        seen = functional.scaled_dot_product_attention(
            query[one.rows, :, one.begin : one.end], key[one.rows], value[one.rows], attn_mask=one.visible[:, None], scale=scale
        )
        parts += [before, torch.cat([own[:, :, : one.begin], seen, own[:, :, one.end :]], dim=2)]
        done = one.rows.stop
    return torch.cat([*parts, out[done:]])


def _with_bias(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Append ``bias``, ``(batch, 1, 1, length)``, to the keys as a feature that all queries have with value 1, and pad with 0."""
    pad = _MULTIPLE - query.shape[-1] % _MULTIPLE
    one = functional.pad(query.new_ones(*query.shape[:-1], 1), (0, pad - 1))
    feature = bias.transpose(-1, -2).to(key.dtype).expand(-1, key.shape[1], -1, -1)
    biased = torch.cat([key, functional.pad(feature, (0, pad - 1))], dim=-1)
    return torch.cat([query, one], dim=-1), biased, functional.pad(value, (0, pad))


def _repeat(states: Tensor, heads: int) -> Tensor:
    """Show each head of ``(batch, kv_heads, length, width)`` to ``heads / kv_heads`` query heads."""
    batch, kv_heads, length, width = states.shape
    return states[:, :, None].expand(batch, kv_heads, heads // kv_heads, length, width).reshape(batch, heads, length, width)


AttentionInterface.register(_NAME, causal_attention)


@contextmanager
def attending_causally(config: PretrainedConfig) -> Iterator[None]:
    """Let a model's layers attend with ``causal_attention`` while the context is open, whatever its attention function is.

    The backward pass may run after the context is closed, unless it runs layers again.

    Parameters
    ----------
    config
        The model's config, from which its layers read the name of their attention function.
    """
    kind = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = kind


@contextmanager
def attending_fast(config: PretrainedConfig, device: torch.device) -> Iterator[None]:
    """Do so where stock attention has a slow backward pass: ``sdpa`` on a CPU. ``device`` is the model's."""
    if config._attn_implementation != "sdpa" or device.type != "cpu":
        yield
        return
    with attending_causally(config):
        yield
