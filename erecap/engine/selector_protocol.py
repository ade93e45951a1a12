"""The protocols by which the engine asks for scores. ``erecap.selectors`` holds the implementations."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


class Selector(Protocol):
    """A scorer of the tokens that reach a stage. The engine keeps the tokens with the highest scores."""

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score the tokens of a batch.

        A token's score must not depend on other rows or on padding. The host must not wait for the device.

        Parameters
        ----------
        hidden
            Residual stream that leaves the stage's layer, ``(batch, n, hidden_size)`` in the model's dtype.
        positions
            Original positions of the tokens, int64 ``(batch, n)``.
        stage_index
            Number of the stage in its schedule, from 0.
        lengths
            Number of tokens of each row, int64 ``(batch,)``; the columns after them are padding.

        Returns
        -------
        Tensor
            Scores, float32 ``(batch, n)``, higher = keep.
        """
        ...


@runtime_checkable
class PreparedSelector(Selector, Protocol):
    """A selector that reads the whole prompts before the first layer runs."""

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        """Read a batch of prompts.

        The engine calls this once per prefill that may drop tokens, before the first layer, under ``torch.inference_mode`` or
        ``torch.no_grad``. Each call replaces the previous batch. A row's scores must not depend on other rows.

        Parameters
        ----------
        ids
            Token ids, int64 ``(batch, n)``, padded on the right.
        lengths
            Number of tokens of each row.
        """
        ...
