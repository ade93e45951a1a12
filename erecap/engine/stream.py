"""The tokens of a batch on their way through the layers."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Survivors:
    """What a stage leaves: indices as ``selection.top_k`` gives them, and the rows' true lengths, on the host and on the device."""

    index: Tensor
    counts: tuple[int, ...]
    lengths: Tensor


@dataclass
class Stream:
    """The tokens that are left. ``rope`` is (cos, sin) of ``positions``, each ``(batch or 1, n, head_dim)``.

    ``counts`` are the rows' true lengths, which ``lengths``, int64 ``(batch,)``, repeats on the device; what is behind is padding.
    """

    hidden: Tensor
    positions: Tensor
    forced: Tensor
    rope: tuple[Tensor, Tensor]
    counts: tuple[int, ...]
    lengths: Tensor

    @property
    def even(self) -> bool:
        """Whether all rows are of one length, so that there is no padding."""
        return len(set(self.counts)) == 1

    def padding(self) -> Tensor | None:
        """Which tokens are padding, bool ``(batch, n)``; ``None`` where none are."""
        if self.even:
            return None
        return torch.arange(self.positions.shape[1], device=self.positions.device) >= self.lengths[:, None]

    def keep(self, left: Survivors) -> None:
        """Keep only the tokens at ``left.index``, int64 ``(batch, kept)``."""
        batch, width = self.positions.shape
        flat = (left.index + torch.arange(batch, device=left.index.device)[:, None] * width).flatten()
        self.hidden = _rows(self.hidden, flat, batch)
        self.positions, self.forced = _rows(self.positions, flat, batch), _rows(self.forced, flat, batch)
        self.rope = (_rows(self.rope[0], flat, batch), _rows(self.rope[1], flat, batch))
        self.counts, self.lengths = left.counts, left.lengths


def _rows(table: Tensor, flat: Tensor, batch: int) -> Tensor:
    """Rows ``flat`` of ``table`` ``(batch, n, ...)`` -> ``(batch, kept, ...)``; one index_select is the fastest gather there is."""
    return table.flatten(0, 1).index_select(0, flat).view(batch, -1, *table.shape[2:])
