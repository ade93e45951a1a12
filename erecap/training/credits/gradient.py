"""Gradient x hidden state: the seed's saliency (SDTP, arXiv 2504.04514)."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.differentiable import gradient_products, stage_hidden
from erecap.training.data import PLAN_WEIGHT, Batch
from erecap.training.loss import weighted_loss


class GradientCredit:
    """``| sum_d (dL / dh_i)_d * h_i,d |``, with L the mean cross entropy of the plan and h_i the stream that leaves the stage.

    With ``checkpointing`` the backward pass computes each layer's activations again, so that one layer's are held at a time.
    """

    def __init__(self, model: PreTrainedModel, batch: Batch, stages: Sequence[int], checkpointing: bool = True) -> None:
        self._model, self._batch = model, batch
        self._hidden, self._final = stage_hidden(model, batch.input_ids, stages, checkpointing)

    def of(self, chosen: Tensor) -> Tensor:
        """See ``Credit.of``. Raises ``ValueError`` for gradients beyond the model's dtype."""
        return gradient_products(_replan_loss(self._model, self._final, self._batch, chosen), self._hidden)


def _replan_loss(model: PreTrainedModel, final: Tensor, batch: Batch, chosen: Tensor) -> Tensor:
    """Sum over rows of the mean cross entropy of the chosen replan's plan: a sum, so that rows do not weigh on one another."""
    wanted = (batch.turns == chosen[:, None]) & (batch.weights >= PLAN_WEIGHT)
    weights = wanted / wanted.sum(1, keepdim=True).clamp_min(1)
    # weighted_loss divides by the sum of weights, which is the number of rows that have a replan
    shares = replace(batch, weights=weights)
    return weighted_loss(final, model.get_output_embeddings().weight, shares).loss * weights.sum()  # type: ignore[no-untyped-call]
