"""The language-model loss of a batch, weighted per target token, and what is logged about it.

Only rows of the final hidden state that have a target of nonzero weight meet the output matrix: padding costs nothing there.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from erecap.training.data import PLAN_WEIGHT, Batch


@dataclass(frozen=True)
class LossParts:
    """``loss`` is the weighted mean that is differentiated. The sums are detached float32 scalars over target tokens."""

    loss: Tensor
    plan_loss: Tensor
    plan_correct: Tensor
    plan_tokens: Tensor
    other_loss: Tensor
    other_tokens: Tensor

    def metrics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(sum, count) of each figure to be logged."""
        return {
            "plan_loss": (self.plan_loss, self.plan_tokens),
            "plan_accuracy": (self.plan_correct, self.plan_tokens),
            "other_loss": (self.other_loss, self.other_tokens),
        }


def weighted_loss(hidden: Tensor, output: Tensor, batch: Batch) -> LossParts:
    """Cross entropy of the next token, averaged with the targets' weights.

    ``hidden`` [rows, length, width] is the final (normalised) hidden state, ``output`` [vocabulary, width] the output matrix. Plan
    tokens are those of weight ``PLAN_WEIGHT``. Raises ``ValueError`` for a batch in which every target has weight 0.
    """
    wanted = batch.weights[:, 1:] > 0
    targets, weights = batch.targets[:, 1:][wanted], batch.weights[:, 1:][wanted]
    if not len(targets):
        raise ValueError(f"sequences {batch.indices} have no target of nonzero weight: leave them out")
    rows = hidden[:, :-1][wanted]
    logits = functional.linear(rows, output.to(rows.dtype)).float()
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return _parts(losses, logits.detach(), targets, weights)


def _parts(losses: Tensor, logits: Tensor, targets: Tensor, weights: Tensor) -> LossParts:
    plan = weights >= PLAN_WEIGHT
    correct = (logits[plan].argmax(-1) == targets[plan]).sum()
    detached = losses.detach()
    return LossParts(
        (losses * weights).sum() / weights.sum(),
        detached[plan].sum(),
        correct.float(),
        plan.sum().float(),
        detached[~plan].sum(),
        (~plan).sum().float(),
    )
