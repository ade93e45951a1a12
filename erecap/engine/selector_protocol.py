"""The protocols by which the engine asks for scores. ``erecap.selectors`` holds the implementations."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from erecap.schedule import PruneSchedule


class Selector(Protocol):
    """A scorer of the tokens that reach a stage. The engine keeps the tokens with the highest scores.

    One that was made for the stages of a schedule names their layers, in order, in the attribute ``stage_layers``, a tuple of int.
    One whose score of a token depends on nothing but the token's hidden state and position says so with ``tokenwise = True``.
    One whose sessions may be saved has an attribute ``identity``, a str that is another one for other scores.
    """

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


def check_tokenwise(selector: Selector) -> None:
    """Refuse a selector whose score of a token may change when the prompt grows, as sessions must.

    Raises
    ------
    ValueError
        For a selector that does not declare ``tokenwise = True``.
    """
    if not getattr(selector, "tokenwise", False) or isinstance(selector, PreparedSelector):
        raise ValueError(
            f"the {type(selector).__name__} may score a token by other tokens, and a session keeps verdicts when the prompt grows: "
            "use the selector learned, random, recency or key-norm; a selector of your own that scores each token by its hidden "
            "state and position alone declares it with the class attribute tokenwise = True"
        )


def check_selector(selector: object, schedule: PruneSchedule) -> None:
    """Refuse what cannot score the tokens at the stages of a schedule.

    Raises
    ------
    ValueError
        For a class or another object without a method ``score``, and for a selector made for other stages.
    """
    if isinstance(selector, type):
        raise ValueError(f"the selector is the class {selector.__name__}: give an object of it, such as {selector.__name__}(...)")
    if not callable(getattr(selector, "score", None)):
        raise ValueError(
            f"the selector is {selector!r}, which has no method score: give an object that has one, such as that of "
            "erecap.selectors.make_selector('recency', SelectorContext(schedule))"
        )
    own, asked = getattr(selector, "stage_layers", None), tuple(stage.after_layer for stage in schedule.stages)
    if own is not None and own != asked:
        raise ValueError(
            f"the {type(selector).__name__} was made for stages after layers {list(own)}, and the schedule has them after layers "
            f"{list(asked)}: make it for this schedule"
        )
