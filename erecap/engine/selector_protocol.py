"""The protocols by which the engine asks for scores. ``erecap.selectors`` holds the implementations."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


class Selector(Protocol):
    """A scorer of the tokens that have reached a stage; the engine keeps the highest."""

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score the tokens of a batch.

        A token's score must not depend on other rows or on padding, and computing it must not wait for the device.

        Parameters
        ----------
        hidden
            Residual stream that leaves the stage's layer, ``(batch, n, hidden_size)`` in the model's dtype.
        positions
            Original positions of the tokens, int64 ``(batch, n)``.
        stage_index
            Number of the stage in its schedule, from 0.
        lengths
            Tokens of each row, int64 ``(batch,)``; what is behind them is padding.

        Returns
        -------
        Tensor
            Scores, float32 ``(batch, n)``, higher = keep.
        """
        ...


@runtime_checkable
class PreparedSelector(Selector, Protocol):
    """A selector that reads the whole prompts before their tokens come to a stage."""

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        """Read a batch of prompts.

        The engine calls this once per prefill that may drop tokens, before the first layer, under ``torch.inference_mode`` or
        ``torch.no_grad``. Each call replaces the batch before. A row's scores must not depend on other rows.

        Parameters
        ----------
        ids
            Token ids, int64 ``(batch, n)``, padded on the right.
        lengths
            Tokens of each row.
        """
        ...
