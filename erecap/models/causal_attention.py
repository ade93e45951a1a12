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
    """The branches of one row: what they see.

    Attributes
    ----------
    row
        Number of the row in the batch.
    begin, end
        Indices of the first token of the row's branches, and of the one behind the last.
    visible
        Tokens of the row that each of them sees, bool ``(end - begin, length)``.
    """

    row: int
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
    places = torch.arange(forks.shape[1], device=forks.device)
    positions, found = places.expand_as(forks).clone(), list[Branches]()
    for row, own in enumerate(forks):
        inside = own.nonzero().flatten()
        if not len(inside):
            continue
        begin, end = int(inside[0]), int(inside[-1]) + 1
        mine = own[begin:end]
        starts = torch.cat([mine.new_ones(1, dtype=torch.bool), mine[1:] != mine[:-1]])
        firsts = places[begin:end][starts][starts.cumsum(0) - 1]  # the first token of each token's branch
        positions[row, begin:end] = mine + places[begin:end] - firsts
        itself = (places >= firsts[:, None]) & (places <= places[begin:end, None])
        found.append(Branches(row, begin, end, (places < mine[:, None]) | itself))
    return found, positions


def _with_branches(out: Tensor, query: Tensor, key: Tensor, value: Tensor, branches: Sequence[Branches], scale: float) -> Tensor:
    """Replace the branches' rows of ``out``, ``(batch, heads, length, width)``, by attention to what they see."""
    rows = list(out.unbind(0))
    for one in branches:
        own = query[one.row, None, :, one.begin : one.end]
        seen = functional.scaled_dot_product_attention(
            own, key[one.row, None], value[one.row, None], attn_mask=one.visible[None, None], scale=scale
        )[0]
        rows[one.row] = torch.cat([rows[one.row][:, : one.begin], seen, rows[one.row][:, one.end :]], dim=1)
    return torch.stack(rows)


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
