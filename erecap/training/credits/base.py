"""What a credit is, and the parts of a batch that credits look at."""

from typing import Protocol

from torch import Tensor

from erecap.training.data import PLAN_WEIGHT, Batch


class Credit(Protocol):
    """Made for a batch, whose unpruned forward it may keep; asked for one replan of each row at a time."""

    def of(self, chosen: Tensor) -> Tensor:
        """How much the plan of turn ``chosen``, int64 [rows], needed each token at each stage: float32 [stages, rows, length].

        Not negative; what it says of tokens that are not older than the turn is not used. A row without a replan
        (``NO_REPLAN``) gets anything finite.
        """
        ...


def plan_places(batch: Batch, row: int, turn: int) -> Tensor:
    """Where the tokens of the turn's plan stand, int64 [plan tokens]."""
    return ((batch.turns[row] == turn) & (batch.weights[row] >= PLAN_WEIGHT)).nonzero().flatten()
