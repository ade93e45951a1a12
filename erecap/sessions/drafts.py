"""Drafts of an answer: tokens that are likely to come next, to be verified together in one forward pass.

A draft changes no answer. Verification accepts the longest beginning of it that greedy decoding would have written, after
"Speculative Decoding" (arXiv 2211.17192). Two sources: the rest of the plan before, as EfficientEdit (arXiv 2506.02780) drafts from
the old text; and the longest match of the last tokens further up in the same context, as SuffixDecoding (arXiv 2411.04975).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LONGEST_MATCH = 32
"""Most tokens of the context that are compared to find where it was written before."""


class Drafter(Protocol):
    """A source of drafts for one answer."""

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose how an answer goes on.

        Parameters
        ----------
        answer
            Its tokens so far.
        most
            Most tokens to propose.

        Returns
        -------
        list of int
            Tokens that may come next; empty where there is no guess.
        """
        ...


@dataclass(frozen=True)
class CopyDraft:
    """A draft from a text that the answer may repeat, such as the rest of the plan before.

    Where the answer leaves the text, the draft goes on behind the last place of the text that ends like the answer.

    Attributes
    ----------
    text
        Tokens of the text, int64 ``(n,)``.
    shortest
        Fewest tokens that must match.
    """

    text: NDArray[np.int64]
    shortest: int = 2

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose the tokens that come next in the text (``Drafter``)."""
        written = np.asarray(answer, np.int64)
        if len(written) <= len(self.text) and np.array_equal(self.text[: len(written)], written):
            return _from(self.text, len(written), most)
        return _after_match(self.text, written, self.shortest, most)


@dataclass(frozen=True)
class SuffixDraft:
    """A draft from the context itself: how it went on where its last tokens stood before.

    Attributes
    ----------
    context
        Tokens of the prompt, int64 ``(n,)``.
    shortest
        Fewest tokens that must match.
    """

    context: NDArray[np.int64]
    shortest: int = 3

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose what followed the longest match in the context (``Drafter``)."""
        whole = np.concatenate([self.context, np.asarray(answer, np.int64)])
        return _after_match(whole[:-1], whole, self.shortest, most)


@dataclass(frozen=True)
class FirstDraft:
    """The draft of the first source that has one.

    Attributes
    ----------
    sources
        The sources, the most reliable first.
    """

    sources: tuple[Drafter, ...]

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose what the first source proposes that proposes anything (``Drafter``)."""
        return next((found for source in self.sources if (found := source.propose(answer, most))), [])


def _after_match(text: NDArray[np.int64], written: NDArray[np.int64], shortest: int, most: int) -> list[int]:
    """Return the tokens of ``text`` behind the longest match of the end of ``written``; of equally long ones the last."""
    longest = min(LONGEST_MATCH, len(written))
    ends = np.arange(len(text))
    found, size = ends[:0], 0
    while size < longest:
        fits = ends[ends >= size]
        ends = fits[text[fits - size] == written[len(written) - 1 - size]]
        if not len(ends):
            break
        found, size = ends, size + 1
    if size < shortest:
        return []
    return _from(text, int(found[-1]) + 1, most)


def _from(text: NDArray[np.int64], start: int, most: int) -> list[int]:
    tokens: list[int] = text[start : start + max(0, most)].tolist()
    return tokens
