"""Learned scores pooled over messages, so that whole messages are kept or dropped."""

from collections.abc import Sequence

import torch
from torch import Tensor

from erecap.selectors.base import SelectorContext
from erecap.selectors.learned import LearnedSelector


class LearnedStepsSelector:
    """A selector by the mean of the learned scores of all tokens of a message.

    Text with gaps can mislead an agent. With this selector each stage keeps or drops whole messages, all but at most one. A message
    begins with the first token of the prompt (``<|im_start|>`` in ChatML). If that token does not occur again, the prompt is one
    message.
    """

    def __init__(self, learned: LearnedSelector) -> None:
        self.stage_layers = learned.stage_layers
        self._learned = learned
        self._messages: Tensor | None = None

    @classmethod
    def from_context(cls, context: SelectorContext) -> "LearnedStepsSelector":
        """Make the selector from the context's pruner. Raise ``ValueError`` where it has none."""
        return cls(LearnedSelector.from_context(context))

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        """Find the messages (``PreparedSelector.prepare``)."""
        self._messages = (ids == ids[:, :1]).cumsum(1) - 1

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score by message (``Selector.score``). Raise ``ValueError`` for another batch than ``prepare`` got."""
        if self._messages is None or len(self._messages) != len(positions):
            raise ValueError(
                "the selector 'learned-steps' is to score prompts that it has not seen: call prepare(ids, lengths) with the whole "
                "prompts first, as prefill does"
            )
        scores = self._learned.score(hidden, positions, stage_index, lengths)
        real = (torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]).to(scores.dtype)
        messages = self._messages.to(positions.device).gather(1, positions)
        sums, counts = torch.zeros(2, *self._messages.shape, dtype=scores.dtype, device=scores.device)
        sums.scatter_add_(1, messages, scores * real)
        counts.scatter_add_(1, messages, real)
        means: Tensor = sums / counts.clamp_min(1)
        return means.gather(1, messages)
