"""The tokens of a batch on their way through the layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from erecap.models.row_sizes import EVERY_SIZE, RowSizes


@dataclass(frozen=True)
class Survivors:
    """The survivors of a stage.

    Attributes
    ----------
    index
        Columns of the surviving tokens as ``selection.top_k`` returns them, int64 ``(batch, kept)``.
    counts
        Number of survivors of each row, on the host.
    lengths
        ``counts`` on the device, int64 ``(batch,)``.
    """

    index: Tensor
    counts: tuple[int, ...]
    lengths: Tensor


@dataclass
class Stream:
    """The tokens that are left, with their tensors for layers and stages.

    Attributes
    ----------
    hidden
        Residual stream, ``(batch, n, hidden_size)``.
    positions
        Original positions, int64 ``(batch, n)``.
    forced
        Number of leading stages that must keep each token, int64 ``(batch, n)``.
    rope
        Cosine and sine of ``positions``, each ``(batch or 1, n, head_dim)``.
    counts
        Number of tokens of each row, on the host; the columns after them are padding.
    lengths
        ``counts`` on the device, int64 ``(batch,)``.
    sizes
        The sizes to which survivors are padded.
    """

    hidden: Tensor
    positions: Tensor
    forced: Tensor
    rope: tuple[Tensor, Tensor]
    counts: tuple[int, ...]
    lengths: Tensor
    sizes: RowSizes = EVERY_SIZE

    @property
    def full(self) -> bool:
        """Whether every row fills all columns, so that there is no padding."""
        return min(self.counts) == self.positions.shape[1]

    def width_for(self, counts: tuple[int, ...]) -> int:
        """Return the number of columns that hold rows of ``counts`` tokens, at most as many as now."""
        return min(self.sizes.at_least(max(counts)), self.positions.shape[1])

    def padding(self) -> Tensor | None:
        """Mark the padding, bool ``(batch, n)``; ``None`` where there is none."""
        if self.full:
            return None
        return torch.arange(self.positions.shape[1], device=self.positions.device) >= self.lengths[:, None]

    def move(self, device: torch.device) -> None:
        """Move all tensors to ``device``, where the next layer computes."""
        self.hidden, self.positions = self.hidden.to(device), self.positions.to(device)
        self.forced, self.lengths = self.forced.to(device), self.lengths.to(device)
        self.rope = (self.rope[0].to(device), self.rope[1].to(device))

    def keep(self, left: Survivors) -> None:
        """Keep only the tokens in the columns ``left.index``."""
        batch, width = self.positions.shape
        flat = (left.index + torch.arange(batch, device=left.index.device)[:, None] * width).flatten()
        self.hidden = _rows(self.hidden, flat, batch)
        self.positions, self.forced = _rows(self.positions, flat, batch), _rows(self.forced, flat, batch)
        self.rope = (_rows(self.rope[0], flat, batch), _rows(self.rope[1], flat, batch))
        self.counts, self.lengths = left.counts, left.lengths


def _rows(table: Tensor, flat: Tensor, batch: int) -> Tensor:
    """Pick rows ``flat`` of ``table``, ``(batch, n, ...)`` -> ``(batch, kept, ...)``, by index_select, the fastest gather."""
    return table.flatten(0, 1).index_select(0, flat).view(batch, -1, *table.shape[2:])
