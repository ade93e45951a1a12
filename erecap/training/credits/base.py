"""The credit protocol, and where a plan's tokens stand in a batch."""

from typing import Protocol

from torch import Tensor

from erecap.training.batches import Batch
from erecap.training.sequences import PLAN_WEIGHT


class Credit(Protocol):
    """A measure of how much plans needed the tokens before them. It is made for one batch, whose unpruned forward it may cache."""

    def of(self, chosen: Tensor) -> Tensor:
        """Measure how much one plan of each row needed each token.

        Parameters
        ----------
        chosen
            Turn of the plan, or ``NO_REPLAN`` for a row without one, int64 ``(rows,)``.

        Returns
        -------
        Tensor
            float32 ``(stages, rows, length)``, not negative. Only values of tokens older than the turn are used. A row without a
            plan may hold any finite values.
        """


def plan_places(batch: Batch, row: int, turn: int) -> Tensor:
    """Find the indices of the tokens of the turn's plan: int64 ``(plan tokens,)``."""
    return ((batch.turns[row] == turn) & (batch.weights[row] >= PLAN_WEIGHT)).nonzero().flatten()
