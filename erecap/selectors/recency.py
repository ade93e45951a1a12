"""Keep the newest tokens: the simplest rule there is, and hard to beat where only the latest events matter."""

import torch
from torch import Tensor

from erecap.selectors.base import SelectorContext


class RecencySelector:
    """The score is the original position (exact in float32 up to 16 million tokens)."""

    @classmethod
    def from_context(cls, context: SelectorContext) -> "RecencySelector":
        """Needs nothing from the context."""
        return cls()

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """See ``Selector.score``."""
        return positions.to(torch.float32)
