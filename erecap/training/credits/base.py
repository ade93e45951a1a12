"""What a credit is, and the parts of a batch that credits look at."""

from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.architecture import decoder_parts
from erecap.masks import attention_mask
from erecap.training.data import PLAN_WEIGHT, Batch
from erecap.training.frozen import layer_forward


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


@torch.no_grad()
def entering(model: PreTrainedModel, batch: Batch) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """The unpruned stream that enters each layer and leaves the last, [rows, length, width] each; and rotary (cos, sin)."""
    parts = decoder_parts(model)
    streams = [parts.embed(batch.input_ids)]
    rope = parts.rotary(streams[0], torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)[None])
    causal = attention_mask(parts.attention, None, streams[0])
    for layer in parts.layers:
        streams.append(layer_forward(layer, streams[-1], rope, causal))
    return streams, rope
