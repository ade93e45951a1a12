"""Drafts of an answer: tokens that are likely to come next, to be verified together in one forward pass.

A draft changes no answer. Verification accepts the longest beginning of it that greedy decoding would have written, after
"Speculative Decoding" (arXiv 2211.17192). Sources: the rest of the plan before, as EfficientEdit (arXiv 2506.02780) drafts from the
old text; the longest match of the last tokens further up in the same context, as SuffixDecoding (arXiv 2411.04975); and what a
grammar forces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LONGEST_MATCH = 32
"""Most tokens of the context that are compared to find where it was written before."""
_ENOUGH_OF_A_PLAN, _ENOUGH_OF_A_CONTEXT = 2, 3  # tokens that must match


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
    """A draft from a text that the answer may repeat with changes, such as the rest of the plan before.

    Where the answer leaves the text, the draft goes on behind the place of the text that ends most like the answer; of several, the
    one that is nearest to as many tokens from the beginning.

    Attributes
    ----------
    text
        Tokens of the text, int64 ``(n,)``.
    line_breaks
        Tokens that end a line. One of them alone is enough of a match, so a line that was written otherwise is left behind.
    """

    text: NDArray[np.int64]
    line_breaks: frozenset[int] = frozenset()

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose the tokens that come next in the text (``Drafter``)."""
        written = np.asarray(answer, np.int64)
        if len(written) <= len(self.text) and np.array_equal(self.text[: len(written)], written):
            return _from(self.text, len(written), most)
        ends, size = longest_match(self.text, written)
        if size < _ENOUGH_OF_A_PLAN and (not size or answer[-1] not in self.line_breaks):
            return []
        return _from(self.text, int(ends[np.abs(ends + 1 - len(written)).argmin()]) + 1, most)


@dataclass(frozen=True)
class SuffixDraft:
    """A draft from the context itself: how it went on where its last tokens stood before, the last time.

    Attributes
    ----------
    context
        Tokens of the prompt, int64 ``(n,)``.
    """

    context: NDArray[np.int64]

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose what followed the longest match in the context (``Drafter``)."""
        whole = np.concatenate([self.context, np.asarray(answer, np.int64)])
        ends, size = longest_match(whole[:-1], whole)
        return _from(whole, int(ends[-1]) + 1, most) if size >= _ENOUGH_OF_A_CONTEXT else []


@dataclass(frozen=True)
class ForcedDraft:
    """A draft of the tokens that must come next, and behind them that of another source.

    Where a grammar leaves one way to go on, what it forces is written without a forward pass for each token. It is verified as any
    draft: a grammar that is to bind the answer also has to ban the other tokens (``DecodeOptions.ban``).

    Attributes
    ----------
    forced
        Takes the tokens of an answer so far, and returns those that must follow, in order; none where there is a choice.
    behind
        Goes on behind them, as if they were written; ``None`` for nothing.
    ends
        Tokens that end an answer; behind one of them nothing goes on.
    """

    forced: Callable[[Sequence[int]], Sequence[int]]
    behind: Drafter | None = None
    ends: frozenset[int] = frozenset()

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose what must follow, then what the other source proposes (``Drafter``)."""
        found = _up_to_end(list(self.forced(answer))[: max(0, most)], self.ends)
        if self.behind is None or len(found) >= most or (found and found[-1] in self.ends):
            return found
        return [*found, *self.behind.propose([*answer, *found], most - len(found))]


@dataclass(frozen=True)
class FirstDraft:
    """The draft of the first source that has one.

    Attributes
    ----------
    sources
        The sources, the most reliable first.
    ends
        Tokens that end an answer; a draft ends with the first of them.
    """

    sources: tuple[Drafter, ...]
    ends: frozenset[int] = frozenset()

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose what the first source proposes that proposes anything (``Drafter``)."""
        found: list[int] = next((tokens for source in self.sources if (tokens := source.propose(answer, most))), [])
        return _up_to_end(found, self.ends)


def longest_match(text: NDArray[np.int64], written: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Find where ``text`` has the longest match of the end of ``written``.

    Returns
    -------
    tuple of int64 array and int
        Index of the last token of each longest match, rising, and their length, at most ``LONGEST_MATCH``.
    """
    ends = np.arange(len(text))
    for size in range(min(LONGEST_MATCH, len(written))):
        longer = ends[ends >= size]
        longer = longer[text[longer - size] == written[len(written) - 1 - size]]
        if not len(longer):
            return ends if size else ends[:0], size
        ends = longer
    return ends, min(LONGEST_MATCH, len(written))


def _up_to_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """Return the tokens up to the first of ``ends``, that one included."""
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1]


def _from(text: NDArray[np.int64], start: int, most: int) -> list[int]:
    tokens: list[int] = text[start : start + max(0, most)].tolist()
    return tokens
