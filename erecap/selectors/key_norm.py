"""Key norms: keep tokens with short keys, which attract attention (Devoto et al. 2024, arXiv 2406.11430)."""

import torch
from torch import Tensor

from erecap.schedule import PruneSchedule
from erecap.selectors.base import SelectorContext
from erecap.selectors.projections import Projections


class KeyNormSelector:
    """A selector by the negative norm of a token's key in the layer after the stage, averaged over KV heads."""

    tokenwise, identity = True, "key-norm"

    def __init__(self, projections: Projections, schedule: PruneSchedule) -> None:
        self._projections = projections
        self.stage_layers = tuple(stage.after_layer for stage in schedule.stages)

    @classmethod
    def from_context(cls, context: SelectorContext) -> "KeyNormSelector":
        """Make the selector from the context's model. Raise ``ValueError`` where it has none."""
        return cls(Projections.of(context, "key-norm"), context.schedule)

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score by key norm (``Selector.score``)."""
        keys = self._projections.keys(hidden, self.stage_layers[stage_index] + 1)
        norms: Tensor = torch.linalg.vector_norm(keys.float(), dim=-1)
        return -norms.mean(-1)
