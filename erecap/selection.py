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
    limit = torch.finfo(scores.dtype).max
    priority = scores.nan_to_num(nan=-limit, posinf=limit, neginf=-limit).masked_fill(forced, torch.inf)
    if padding is not None:
        priority = priority.masked_fill(padding, -torch.inf)
    # A stable sort gives ties to the lower index, which torch.topk does not promise.
    chosen = torch.sort(priority, dim=-1, descending=True, stable=True).indices[:, :keep]
    if row_keep is None:
        return chosen.sort(dim=-1).values
    last = scores.shape[-1] - 1
    surplus = torch.arange(keep, device=scores.device) >= row_keep[:, None]
    return chosen.masked_fill(surplus, last + 1).sort(dim=-1).values.clamp(max=last)
