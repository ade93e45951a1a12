"""Drafts of an answer: tokens that are likely to come next, to be verified together in one forward pass.

A draft changes no answer. Verification accepts the longest beginning of it that greedy decoding would have written, after
"Speculative Decoding" (arXiv 2211.17192). Sources: the rest of the plan before, as EfficientEdit (arXiv 2506.02780) drafts from the
old text; the longest match of the last tokens further up in the same context, as SuffixDecoding (arXiv 2411.04975); what a grammar
forces; and what a trained head guesses (``erecap.sessions.head_draft``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

REFUSALS = 2
"""Lines that may come instead of one of the text before the draft stops going on with it."""
LONGEST_MATCH = 32
"""Most tokens of the context that are compared to find where it was written before."""
DRAFTED_BY_MATCH = 2
"""Tokens drafted from the context for each token that matches."""


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


@runtime_checkable
class SeeingDrafter(Protocol):
    """A source that guesses from hidden states of the model."""

    def saw(self, hidden: Tensor) -> None:
        """Take the hidden state from which the model wrote the answer's last token, float ``(hidden_size,)``.

        It is that after the model's final norm. A decode tells it before each ``propose`` but the one for the first token.
        """
        ...


@dataclass(frozen=True)
class CopyDraft:
    """A draft from a text that the answer may repeat with changes, such as the rest of the plan before.

    The answer is followed along the text. Where it has another token in the middle of a line, that one is taken to replace the
    text's, there and wherever the text has the same two tokens again. Where it has another line, the text waits: the draft goes on
    with it at the next line, or as soon as the answer comes back to it.

    Attributes
    ----------
    text
        Tokens of the text, int64 ``(n,)``.
    line_breaks
        Tokens that end a line.
    """

    text: NDArray[np.int64]
    line_breaks: frozenset[int] = frozenset()

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose the tokens that come next in the text (``Drafter``)."""
        place = _Place(self.text.tolist(), self.line_breaks)
        for token in answer:
            place.follow(token)
        return place.ahead(most)


@dataclass
class _Place:
    """The place in a text that an answer has reached."""

    text: list[int]
    breaks: frozenset[int]
    at: int | None = 0
    """The token that comes next; ``None`` in a line that the text does not have."""
    waiting: int = -1
    """Where the text goes on after such a line; -1 before the first."""
    last: int | None = None
    """The last token of the answer."""
    refused: int = 0
    """How many lines in a row came instead of the one that waits."""
    changes: dict[tuple[int, int], int] = field(default_factory=dict)
    """What the answer has in place of the second of two tokens."""

    def ahead(self, most: int) -> list[int]:
        """Return at most so many tokens that come next, with the changes so far."""
        if self.refused >= REFUSALS or most < 1:
            return []
        if self.at is not None:
            return self._piece(self.at, most)
        pairs = zip(self.text, self.text[1:], strict=False)
        ends = (second for first, second in pairs if first == self.last and second in self.breaks)
        return next(([end, *self._piece(self.waiting, most - 1)] for end in ends), [])

    def _piece(self, at: int, most: int) -> list[int]:
        return [self._changed(place) for place in range(at, min(at + most, len(self.text)))]

    def follow(self, token: int) -> None:
        """Go on by one token of the answer."""
        if self.at is None:
            self.at = self._found_again(token)
        elif self.at < len(self.text) and self._changed(self.at) == token:
            self.at, self.refused = self.at + 1, 0
        elif self._is_replaced(self.at, token):
            self.changes[self.text[self.at - 1], self.text[self.at]] = token
            self.at += 1
        else:
            self.refused += self.at == self.waiting
            self.waiting = self._line_of(self.at)
            for at in range(max(1, self.waiting), self.at):  # it was another line, and no change of this one
                self.changes.pop((self.text[at - 1], self.text[at]), None)
            self.at = self._found_again(token)
        self.last = token

    def _changed(self, at: int) -> int:
        return self.changes.get((self.text[at - 1], self.text[at]), self.text[at]) if at else self.text[at]

    def _is_replaced(self, at: int, token: int) -> bool:
        """Tell whether a token stands for the one of the text, in the middle of a line."""
        if not 0 < at < len(self.text) or self.breaks & {token, self.text[at], self.text[at - 1]} or self.text[at - 1] != self.last:
            return False
        return at > self._line_of(at)

    def _found_again(self, token: int) -> int | None:
        """Return where the text goes on at the next line, or if it has the last two tokens of the answer further on."""
        if token in self.breaks:
            return self.waiting
        places = range(self.waiting + 1, len(self.text))
        return next((at + 1 for at in places if self.text[at] == token and self.text[at - 1] == self.last), None)

    def _line_of(self, at: int) -> int:
        """Return the beginning of the line at ``at``; behind its first token where the answer has that one and will not again."""
        begin = next((place + 1 for place in range(at - 1, -1, -1) if self.text[place] in self.breaks), 0)
        return begin + (at > begin and self.text.count(self.text[begin]) == 1)


@dataclass(frozen=True)
class SuffixDraft:
    """A draft from the context itself: how it went on where its last tokens stood before, the last time.

    It is twice as long as the match, since a longer match foretells more.

    Attributes
    ----------
    context
        Tokens of the prompt, int64 ``(n,)``.
    least
        Fewest tokens that must match.
    """

    context: NDArray[np.int64]
    least: int = 1

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """Propose what followed the longest match in the context (``Drafter``)."""
        whole = np.concatenate([self.context, np.asarray(answer, np.int64)])
        ends, size = longest_match(whole[:-1], whole)
        return _from(whole, int(ends[-1]) + 1, min(most, DRAFTED_BY_MATCH * size)) if size >= self.least else []


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

    def saw(self, hidden: Tensor) -> None:
        """Hand a hidden state on (``SeeingDrafter``)."""
        _tell(self.behind, hidden)


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

    def saw(self, hidden: Tensor) -> None:
        """Hand a hidden state on (``SeeingDrafter``)."""
        for source in self.sources:
            _tell(source, hidden)


def _tell(source: object, hidden: Tensor) -> None:
    if isinstance(source, SeeingDrafter):
        source.saw(hidden)


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
