"""The language-model loss of a batch, weighted per target token, and its figures for the log.

``weighted_loss`` multiplies only hidden states whose target has a nonzero weight with the output matrix, so padding costs nothing
there.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from erecap.training.batches import Batch
from erecap.training.sequences import PLAN_WEIGHT


@dataclass(frozen=True)
class LossParts:
    """The loss of a batch and its parts, as float32 scalars. All but ``loss`` are detached sums over target tokens.

    Attributes
    ----------
    loss
        Weighted mean cross entropy, in nats. Gradients are taken of this one.
    plan_loss
        Sum of the cross entropy of plan tokens, in nats.
    plan_correct
        Number of plan tokens that the model ranks first.
    plan_tokens
        Number of plan tokens.
    other_loss
        Sum of the cross entropy of all other target tokens, in nats.
    other_tokens
        Number of all other target tokens.
    """

    loss: Tensor
    plan_loss: Tensor
    plan_correct: Tensor
    plan_tokens: Tensor
    other_loss: Tensor
    other_tokens: Tensor

    def metrics(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (sum, count) of each figure to log."""
        return {
            "plan_loss": (self.plan_loss, self.plan_tokens),
            "plan_accuracy": (self.plan_correct, self.plan_tokens),
            "other_loss": (self.other_loss, self.other_tokens),
        }


def weighted_loss(hidden: Tensor, output: Tensor, batch: Batch) -> LossParts:
    """Compute the cross entropy of the next token, averaged with the targets' weights.

    Parameters
    ----------
    hidden
        Hidden state after the final norm, ``(rows, length, width)``.
    output
        The output matrix, ``(vocabulary, width)``.
    batch
        Tokens and their weights. Targets of weight ``PLAN_WEIGHT`` count as plan tokens.

    Raises
    ------
    ValueError
        For a batch in which every target has weight 0.
    """
    wanted = batch.weights[:, 1:] > 0
    targets, weights = batch.input_ids[:, 1:][wanted], batch.weights[:, 1:][wanted]
    if not len(targets):
        raise ValueError(f"sequences {batch.indices} have no target of nonzero weight: leave them out")
    return _parts(hidden[:, :-1][wanted], output, targets, weights)


def weighted_loss_everywhere(hidden: Tensor, output: Tensor, batch: Batch) -> LossParts:
    """Compute the same for all positions, also those of weight 0, in operations that depend on shapes alone."""
    return _parts(hidden[:, :-1].flatten(0, 1), output, batch.input_ids[:, 1:].flatten(), batch.weights[:, 1:].flatten())


def _parts(hidden: Tensor, output: Tensor, targets: Tensor, weights: Tensor) -> LossParts:
    logits = functional.linear(hidden, output.to(hidden.dtype)).float()
    losses = functional.cross_entropy(logits, targets, reduction="none")
    plan, other = weights >= PLAN_WEIGHT, (weights > 0) & (weights < PLAN_WEIGHT)
    correct, detached = (logits.detach().argmax(-1) == targets) & plan, losses.detach()
    return LossParts(
        (losses * weights).sum() / weights.sum().clamp_min(1e-9),  # without targets there is nothing to learn
        (detached * plan).sum(),
        correct.sum().float(),
        plan.sum().float(),
        (detached * other).sum(),
        other.sum().float(),
    )
