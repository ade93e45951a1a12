"""Learned scores, from the token pruner (SDTP, arXiv 2504.04514)."""

from torch import Tensor

from erecap.models.pruner import TokenPruner, place_pruner
from erecap.schedule import PruneSchedule
from erecap.selectors.base import SelectorContext


class LearnedSelector:
    """A selector by the MLP that was trained for the layer of each stage.

    Making it raises ``ValueError`` for a schedule with a stage that the pruner was not trained for.
    """

    tokenwise = True

    def __init__(self, pruner: TokenPruner, schedule: PruneSchedule) -> None:
        missing = [stage.after_layer for stage in schedule.stages if stage.after_layer not in pruner.stages]
        if missing:
            raise ValueError(
                f"the schedule prunes after layers {missing}, for which the pruner (stages after layers {list(pruner.stages)}) was "
                "not trained: train one for this schedule or make the schedule from the pruner's stages"
            )
        self._pruner = pruner
        self.stage_layers = tuple(stage.after_layer for stage in schedule.stages)
        self._mlps = [pruner.stages.index(stage.after_layer) for stage in schedule.stages]

    @classmethod
    def from_context(cls, context: SelectorContext) -> "LearnedSelector":
        """Make the selector from the context's pruner, on the devices of its model's layers. Raise ``ValueError`` without one."""
        if context.pruner is None:
            raise ValueError(
                "the selector 'learned' needs a pruner and got none: give one, or use the selector 'random' or 'recency'"
            )
        pruner = context.pruner if context.model is None else place_pruner(context.pruner, context.model)
        return cls(pruner, context.schedule)

    @property
    def identity(self) -> str:
        """Name of these scores (``Selector``): that of the pruner's weights."""
        return f"learned, weights {self._pruner.checksum()}"

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score with the stage's MLP (``Selector.score``)."""
        return self._pruner(hidden, self._mlps[stage_index])  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
