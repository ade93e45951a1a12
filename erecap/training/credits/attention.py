"""Attention from the plan's tokens. SnapKV (arXiv 2404.14469) is similar, with attention from the end of the prompt."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.differentiable import stage_hidden
from erecap.models.architecture import decoder_parts
from erecap.selectors.attention import attention_weights
from erecap.selectors.projections import Projections
from erecap.training.batches import Batch
from erecap.training.credits.base import plan_places


class AttentionCredit:
    """Attention from the tokens that predict the plan: their mean, summed over heads and over the layers after the stage."""

    def __init__(self, model: PreTrainedModel, batch: Batch, stages: Sequence[int]) -> None:
        parts = decoder_parts(model)
        self._batch, self._stages, self._depth = batch, stages, len(parts.layers)
        self._projections = Projections(model)
        with torch.no_grad():
            self._leaving, _ = stage_hidden(model, batch.input_ids, range(self._depth))

    @torch.no_grad()
    def of(self, chosen: Tensor) -> Tensor:
        """Sum the attention from the plan of turn ``chosen``, as ``Credit.of`` describes."""
        rows = [self._row(row, turn) for row, turn in enumerate(chosen.tolist())]
        received = torch.stack(rows, 1)
        return torch.stack([received[layer:].sum(0) for layer in self._stages])

    def _row(self, row: int, turn: int) -> Tensor:
        """Compute the attention that each token gets in each layer but the first, float32 ``(layers - 1, length)``."""
        length, places = self._batch.input_ids.shape[1], plan_places(self._batch, row, turn) - 1
        if not len(places):
            return torch.zeros(self._depth - 1, length, device=self._batch.input_ids.device)
        positions = torch.arange(length, device=places.device)[None]
        visible = (positions <= places[:, None])[None]
        layers = []
        for layer in range(1, self._depth):
            stream = self._leaving[layer - 1][row][None]
            queries = self._projections.queries(stream[:, places], places[None], layer)
            keys = self._projections.rotated_keys(stream, positions, layer)
            layers.append(attention_weights(queries, keys, visible).sum((1, 2))[0] / len(places))
        return torch.stack(layers)
