"""The credit protocol, and where a plan's tokens stand in a batch."""

from typing import Protocol

from torch import Tensor

from erecap.training.batches import Batch
from erecap.training.sequences import PLAN_WEIGHT


class Credit(Protocol):
    """How much plans needed the tokens before them. Made for one batch, whose unpruned forward it may keep."""

    def of(self, chosen: Tensor) -> Tensor:
        """Say how much one plan of each row needed each token.

        Parameters
        ----------
        chosen
            int64 ``(rows,)``: the plan's turn, or ``NO_REPLAN`` for a row without.

        Returns
        -------
        Tensor
            float32 ``(stages, rows, length)``, not negative. Values of tokens that are not older than the turn are not used; a row
            without a plan may hold anything finite.
        """


def plan_places(batch: Batch, row: int, turn: int) -> Tensor:
    """Find the tokens of the turn's plan: int64 ``(plan tokens,)``."""
    return ((batch.turns[row] == turn) & (batch.weights[row] >= PLAN_WEIGHT)).nonzero().flatten()
