"""Selection of the tokens that survive a stage, from their scores, as functions of plain tensors."""

import torch
from torch import Tensor


def top_k(scores: Tensor, forced: Tensor, keep: int, row_keep: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
    """Choose the forced tokens of each row, then its best ones.

    Ties go to the lower index. NaN ranks lowest, and no score outranks a forced token. The host does not wait for the device.

    Parameters
    ----------
    scores
        float32 ``(batch, n)``, higher = keep.
    forced
        Tokens that survive whatever their score, bool ``(batch, n)``.
    keep
        Largest number of survivors in a row; at least the number of forced tokens of any row.
    row_keep
        Survivors of each row, int64 ``(batch,)``, where rows differ. A row with fewer than ``keep`` is filled up with ``n - 1``.
    padding
        Tokens that are never chosen, bool ``(batch, n)``.

    Returns
    -------
    Tensor
        Columns of the survivors, int64 ``(batch, keep)``, rising within each row.
    """
    chosen = _ranked(scores, forced, padding)[:, :keep]
    if row_keep is None:
        return chosen.sort(dim=-1).values
    last = scores.shape[-1] - 1
    surplus = torch.arange(keep, device=scores.device) >= row_keep[:, None]
    return chosen.masked_fill(surplus, last + 1).sort(dim=-1).values.clamp(max=last)


def chunk_top_k(scores: Tensor, forced: Tensor, chunks: Tensor, starts: Tensor, kept: Tensor, keep: int) -> Tensor:
    """Choose the forced tokens of each chunk, then its best ones.

    Parameters
    ----------
    scores
        float32 ``(batch, n)``, higher = keep.
    forced
        Tokens that survive whatever their score, bool ``(batch, n)``.
    chunks
        Chunk of each token, int64 ``(batch, n)``, rising within a row. Padding is a chunk that keeps nothing.
    starts
        Column at which each chunk begins, int64 ``(batch, chunks)``.
    kept
        Number of survivors of each chunk, forced ones included, int64 ``(batch, chunks)``.
    keep
        Largest number of survivors in a row.

    Returns
    -------
    Tensor
        Columns of the survivors as ``top_k`` returns them, int64 ``(batch, keep)``.
    """
    ranked = _ranked(scores, forced)
    # A stable sort by chunk leaves each chunk in its own columns, so a token's rank is its distance from the chunk's start.
    by_chunk = ranked.gather(1, chunks.gather(1, ranked).sort(dim=-1, stable=True).indices)
    rank = torch.arange(scores.shape[1], device=scores.device) - starts.gather(1, chunks)
    survives = torch.zeros_like(forced).scatter(1, by_chunk, rank < kept.gather(1, chunks))
    return places(survives, keep)


def above(scores: Tensor, forced: Tensor, tau: float, padding: Tensor | None = None) -> Tensor:
    """Mark forced tokens and those that score above ``tau``, bool ``(batch, n)``. NaN is below ``tau``; padding is not marked."""
    survives = forced | (scores > tau)
    return survives if padding is None else survives & ~padding


def places(survives: Tensor, keep: int) -> Tensor:
    """Turn a mask into columns.

    Parameters
    ----------
    survives
        Tokens to keep, bool ``(batch, n)``.
    keep
        Largest number of them in a row.

    Returns
    -------
    Tensor
        Their columns as ``top_k`` returns them, int64 ``(batch, keep)``.
    """
    width = survives.shape[1]
    index = torch.arange(width, device=survives.device).masked_fill(~survives, width)
    return index.sort(dim=-1).values[:, :keep].clamp(max=width - 1)


def _ranked(scores: Tensor, forced: Tensor, padding: Tensor | None = None) -> Tensor:
    """Sort columns from the best to the worst, int64 ``(batch, n)``: forced tokens, then the others by score, then padding."""
    limit = torch.finfo(scores.dtype).max
    priority = scores.nan_to_num(nan=-limit, posinf=limit, neginf=-limit).masked_fill(forced, torch.inf)
    if padding is not None:
        priority = priority.masked_fill(padding, -torch.inf)
    # A stable sort gives ties to the lower index, which torch.topk does not promise.
    return torch.sort(priority, dim=-1, descending=True, stable=True).indices
