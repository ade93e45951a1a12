"""Removal: the rise of a plan's loss when a whole turn of the episode is removed."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from erecap.engine.differentiable import layer_forward, stage_hidden
from erecap.models.architecture import decoder_parts
from erecap.models.masks import attention_mask, causal
from erecap.training.batches import Batch
from erecap.training.credits.base import plan_places

_AT_ONCE = 8


class RemovalCredit:
    """The rise of the plan's mean cross entropy (0 where it falls) when the layers after the stage do not see a turn's tokens.

    All tokens of a turn get the same value. It is slow: the layers after each stage run once for every older turn.
    """

    def __init__(self, model: PreTrainedModel, batch: Batch, stages: Sequence[int]) -> None:
        self._parts, self._batch, self._stages = decoder_parts(model), batch, stages
        with torch.no_grad():
            self._leaving, _ = stage_hidden(model, batch.input_ids, range(len(self._parts.layers)))
        positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)[None]
        self._rope = self._parts.rotary(self._leaving[0], positions)

    @torch.no_grad()
    def of(self, chosen: Tensor) -> Tensor:
        """Remove each turn before ``chosen`` and measure the plan's loss, as ``Credit.of`` describes."""
        rows = [self._row(row, turn) for row, turn in enumerate(chosen.tolist())]
        return torch.stack(rows, 1)

    def _row(self, row: int, turn: int) -> Tensor:
        """Credit the tokens of one row, float32 ``(stages, length)``."""
        found = torch.zeros(len(self._stages), self._batch.input_ids.shape[1], device=self._batch.input_ids.device)
        plan = plan_places(self._batch, row, turn)
        if not len(plan):
            return found
        turns = self._batch.turns[row, : int(plan[-1]) + 1]
        whole = self._losses(row, plan, self._leaving[-1][row][None, : len(turns)])
        older = torch.unique(turns[(turns >= 0) & (turns < turn)])
        for stage, layer in enumerate(self._stages):
            for some in older.split(_AT_ONCE):
                rise = (self._losses(row, plan, self._without(row, layer, turns, some)) - whole).clamp_min(0)
                found[stage, : len(turns)] += ((turns == some[:, None]) * rise[:, None]).sum(0)
        return found

    def _without(self, row: int, layer: int, turns: Tensor, removed: Tensor) -> Tensor:
        """Run the layers after ``layer`` once per removed turn, without its keys: last output, ``(removed, tokens, width)``."""
        count = len(turns)
        there = (turns != removed[:, None])[:, None, None, :]
        itself = torch.eye(count, dtype=torch.bool, device=turns.device)
        visible = causal(count, count, turns.device) & there | itself
        stream = self._leaving[layer][row, :count].expand(len(removed), -1, -1)
        mask = attention_mask("eager", visible, stream)
        for number in range(layer + 1, len(self._parts.layers)):
            stream = layer_forward(self._parts.layers[number], stream, (self._rope[0][:, :count], self._rope[1][:, :count]), mask)
        return stream

    def _losses(self, row: int, plan: Tensor, last: Tensor) -> Tensor:
        """Compute the plan's mean cross entropy from each of ``last``, ``(several, tokens, width)``: float32 ``(several,)``."""
        logits = self._parts.head(self._parts.norm(last[:, plan - 1])).float()
        wanted = self._batch.input_ids[row, plan].expand(len(last), -1)
        return cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(len(last), -1).mean(1)
