"""Recency: keep the newest tokens. Hard to beat where only the latest events matter."""

import torch
from torch import Tensor

from erecap.selectors.base import SelectorContext


class RecencySelector:
    """A selector by original position. Scores are exact in float32 up to 16 million tokens."""

    tokenwise, identity = True, "recency"

    @classmethod
    def from_context(cls, context: SelectorContext) -> "RecencySelector":
        """Make the selector; the context is not used."""
        return cls()

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score by position (``Selector.score``)."""
        return positions.to(torch.float32)
