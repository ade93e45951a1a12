"""Gradient x hidden state, the saliency of SDTP (arXiv 2504.04514)."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.differentiable import gradient_products, stage_hidden
from erecap.training.batches import Batch
from erecap.training.loss import weighted_loss
from erecap.training.sequences import PLAN_WEIGHT


class GradientCredit:
    """The credit ``| sum_d (dL / dh_i)_d * h_i,d |``: L is the plan's mean cross entropy, h_i the residual stream at the stage.

    Parameters
    ----------
    model, batch, stages
        As for ``make_credit``.
    checkpointing
        Whether the backward pass recomputes each layer's activations, so that one layer's are held in memory at a time.
    """

    def __init__(self, model: PreTrainedModel, batch: Batch, stages: Sequence[int], checkpointing: bool = True) -> None:
        self._model, self._batch = model, batch
        self._hidden, self._final = stage_hidden(model, batch.input_ids, stages, checkpointing)

    def of(self, chosen: Tensor) -> Tensor:
        """Differentiate the loss of the plan of turn ``chosen``, as ``Credit.of`` describes.

        Raises
        ------
        ValueError
            For gradients that overflow the model's dtype.
        """
        return gradient_products(_replan_loss(self._model, self._final, self._batch, chosen), self._hidden)


def _replan_loss(model: PreTrainedModel, final: Tensor, batch: Batch, chosen: Tensor) -> Tensor:
    """Sum the mean cross entropy of each row's plan over rows, so that one row does not change another's gradient."""
    wanted = (batch.turns == chosen[:, None]) & (batch.weights >= PLAN_WEIGHT)
    weights = wanted / wanted.sum(1, keepdim=True).clamp_min(1)
    # weighted_loss divides by the sum of weights, which is the number of rows that have a replan
    shares = replace(batch, weights=weights)
    return weighted_loss(final, model.get_output_embeddings().weight, shares).loss * weights.sum()  # type: ignore[no-untyped-call]
