"""Which tokens survive a stage, given their scores. Knows nothing of layers, schedules or how the scores came about."""

import torch
from torch import Tensor


def top_k(scores: Tensor, forced: Tensor, keep: int, row_keep: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
    """Indices of the tokens to keep, rising within each row: int64 ``(batch, keep)``.

    ``scores`` is float32 ``(batch, n)``, higher = keep; ``forced`` is bool ``(batch, n)`` and marks tokens that survive whatever
    their score. Ties go to the lower index; NaN ranks lowest and infinities never outrank a forced token. ``keep`` must be at least
    the largest number of forced tokens in a row: it comes from ``schedule.stage_counts`` on the host, so that nothing here waits
    for the device.

    Rows that keep fewer than ``keep`` tokens (a batch of different lengths) say how many in ``row_keep``, int64 ``(batch,)``, and
    mark their padding, which is never chosen, in ``padding``, bool ``(batch, n)``; such a row ends in repeats of ``n - 1``.
    """
    chosen = _ranked(scores, forced, padding)[:, :keep]
    if row_keep is None:
        return chosen.sort(dim=-1).values
    last = scores.shape[-1] - 1
    surplus = torch.arange(keep, device=scores.device) >= row_keep[:, None]
    return chosen.masked_fill(surplus, last + 1).sort(dim=-1).values.clamp(max=last)


def chunk_top_k(scores: Tensor, forced: Tensor, chunks: Tensor, starts: Tensor, kept: Tensor, keep: int) -> Tensor:
    """Indices of the best tokens of each chunk, as ``top_k`` gives them: int64 ``(batch, keep)``.

    ``chunks``, int64 ``(batch, n)``, are the numbers of the tokens' chunks, rising within a row; ``starts`` and ``kept``, int64
    ``(batch, chunks)``, say where a chunk begins in the row and how many of its tokens survive, forced ones first; they come from
    ``schedule.chunk_counts``. Padding is a chunk of which none survive. ``keep`` is the largest number of survivors in a row.
    """
    ranked = _ranked(scores, forced)
    # Sorted by chunk, each keeps its place in the row: the chunk of a column stays, and its distance from the start is the rank.
    by_chunk = ranked.gather(1, chunks.gather(1, ranked).sort(dim=-1, stable=True).indices)
    rank = torch.arange(scores.shape[1], device=scores.device) - starts.gather(1, chunks)
    survives = torch.zeros_like(forced).scatter(1, by_chunk, rank < kept.gather(1, chunks))
    return places(survives, keep)


def above(scores: Tensor, forced: Tensor, tau: float, padding: Tensor | None = None) -> Tensor:
    """Which tokens survive a threshold, bool ``(batch, n)``: forced ones and those that score more than ``tau`` (never NaN)."""
    survives = forced | (scores > tau)
    return survives if padding is None else survives & ~padding


def places(survives: Tensor, keep: int) -> Tensor:
    """Indices of the tokens that survive, bool ``(batch, n)``, as ``top_k`` gives them; no row may have more than ``keep``."""
    width = survives.shape[1]
    index = torch.arange(width, device=survives.device).masked_fill(~survives, width)
    return index.sort(dim=-1).values[:, :keep].clamp(max=width - 1)


def _ranked(scores: Tensor, forced: Tensor, padding: Tensor | None = None) -> Tensor:
    """Indices from the best to the worst, int64 ``(batch, n)``: forced tokens, then by score, padding last."""
    limit = torch.finfo(scores.dtype).max
    priority = scores.nan_to_num(nan=-limit, posinf=limit, neginf=-limit).masked_fill(forced, torch.inf)
    if padding is not None:
        priority = priority.masked_fill(padding, -torch.inf)
    # A stable sort gives ties to the lower index, which torch.topk does not promise.
    return torch.sort(priority, dim=-1, descending=True, stable=True).indices
