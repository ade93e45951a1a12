"""Attention masks in the forms that transformers' attention functions take."""

import torch
from torch import Tensor

ATTENTION_KINDS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


def attention_mask(kind: str, visible: Tensor | None, hidden: Tensor) -> Tensor | None:
    """Make the mask that a decoder layer takes.

    Without a mask, ``sdpa`` and flash attention are causal, and ``eager`` is bidirectional. ``eager`` adds its mask to the logits.

    Parameters
    ----------
    kind
        Attention function, one of ``ATTENTION_KINDS``.
    visible
        Keys that each query may attend to, bool ``(batch, 1, queries, keys)``; ``None`` for plain causality.
    hidden
        Residual stream, ``(batch, queries, hidden_size)``; gives length, dtype and device.

    Returns
    -------
    Tensor or None
        bool for ``sdpa``, the dtype of ``hidden`` for ``eager``, ``(batch or 1, 1, queries, keys)``.

    Raises
    ------
    ValueError
        For flash attention with ``visible``.
    """
    if kind == "sdpa":
        return visible
    if kind == "eager":
        if visible is None and hidden.shape[1] == 1:
            return None
        seen = causal(hidden.shape[1], hidden.shape[1], hidden.device) if visible is None else visible
        return torch.zeros(seen.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~seen, torch.finfo(hidden.dtype).min)
    if visible is not None:
        raise ValueError(
            f"attention {kind!r} cannot run rows of different lengths here: send prompts one by one, or load the model with "
            "attn_implementation='sdpa'"
        )
    return None


def extension_mask(kind: str, keys: int, hidden: Tensor) -> Tensor | None:
    """Make the mask for new tokens that follow a cache: each attends to itself and to all keys before it.

    Parameters
    ----------
    kind
        Attention function, one of ``ATTENTION_KINDS``.
    keys
        Number of keys in all, those of the new tokens included.
    hidden
        Residual stream of the new tokens, ``(batch, new, hidden_size)``.

    Returns
    -------
    Tensor or None
        As ``attention_mask`` returns it. ``None`` for one token, and for flash attention, which lines up the last query with the
        last key.
    """
    new = hidden.shape[1]
    if new == 1 or kind.startswith("flash"):
        return attention_mask(kind, None, hidden[:, :1])
    return attention_mask(kind, causal(new, keys, hidden.device), hidden)


def causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """Let the last ``queries`` of ``keys`` tokens attend to themselves and all before them: bool ``(1, 1, queries, keys)``."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]
