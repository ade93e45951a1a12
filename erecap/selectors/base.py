"""What a selector is, and what a factory may use to make one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor
from transformers import PreTrainedModel

from erecap.models.pruner import TokenPruner
from erecap.schedule.schedule import PruneSchedule


@dataclass(frozen=True)
class SelectorContext:
    """What the selectors in the registry are made from: the schedule, a pruner if there is one, a seed, the model to be pruned and
    the tokens that end its answers."""

    schedule: PruneSchedule
    pruner: TokenPruner | None = None
    seed: int = 0
    model: PreTrainedModel | None = None
    eos_ids: frozenset[int] = frozenset()


class Selector(Protocol):
    """Scores the tokens that have reached a stage; the engine keeps the highest."""

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Scores, float32 ``(batch, n)``, higher = keep.

        ``hidden`` is the residual stream that leaves the stage's layer, ``(batch, n, hidden_size)``; ``positions`` are the tokens'
        original positions, int64 ``(batch, n)``; ``stage_index`` counts the schedule's stages from 0; ``lengths``, int64
        ``(batch,)``, are the rows' true lengths, what is behind them is padding. A token's score must not depend on other rows or
        on padding, and computing it must not wait for the device.
        """
        ...


@runtime_checkable
class PreparedSelector(Selector, Protocol):
    """A selector that has to see the whole prompts before their tokens come to a stage."""

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        """Look at a batch of prompts, int64 ``(batch, n)``, padded on the right; ``lengths`` are the rows' true lengths.

        Called once per prefill that drops any token, before its first layer, under ``torch.inference_mode`` or ``torch.no_grad``.
        Each call forgets the batch before. A row's scores must not depend on other rows.
        """
        ...
