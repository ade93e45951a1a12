"""Which token an answer must not go on with, so that it does not begin with lines that it must not have."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MARKER = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])(?=\s|$)")
"""The bullet or number before a line of a list."""
_TWO_WORDS = re.compile(r"\S+ \S+(?: \d+)?")
"""A line that names one thing or room, such as ``goto kitchen`` or ``goto room 12``."""
_PARTIAL = "\ufffd"
"""What stands in a decoded text for a character of which some bytes are missing."""


class Vocabulary:
    """The tokens of a tokenizer, found by the text that they write.

    Parameters
    ----------
    texts
        Text of each token alone, by id; empty for a special token, which is never found.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._in_line: dict[str, list[int]] = {}
        self._across: dict[str, list[int]] = {}  # by the text before the line break
        self._partial: list[int] = []
        for token, text in enumerate(texts):
            first, *more = text.strip().splitlines() or [""]
            if _PARTIAL in text:
                self._partial.append(token)
            elif first:
                (self._across if more else self._in_line).setdefault(_plain(first), []).append(token)
        self._longest = max(map(len, (*self._in_line, *self._across)), default=0)

    def beginnings(self, text: str, shortest: int = 1) -> list[int]:
        """List the tokens that may write the first ``shortest`` characters of a plain text, or more, and whatever white space."""
        ends = range(1, min(len(text), self._longest) + 1)
        found = [token for end in ends for token in self._across.get(text[:end], ())]
        found += [token for end in ends[max(shortest, 1) - 1 :] for token in self._in_line.get(text[:end], ())]
        return found if text.isascii() else found + self._partial


@dataclass(frozen=True)
class _Avoided:
    """One avoided beginning.

    Attributes
    ----------
    text
        Its lines as ``_plain_lines`` writes them.
    fork
        Number of characters of ``text`` that the answer may share.
    """

    text: str
    fork: int

    @classmethod
    def of(cls, lines: str) -> "_Avoided":
        text = _plain_lines(lines)
        start = text.rfind("\n") + 1
        if not _TWO_WORDS.fullmatch(text[start:]):
            return cls(text, start)
        return cls(text, len(text) - 1 if text[-1].isdigit() else text.rfind(" ") + 1)

    def rest(self, text: str) -> str | None:
        """Return what is left to write of the avoided text; ``None`` where the answer has left it."""
        return self.text[len(text) :].lstrip() if self.text.startswith(text) else None

    def entered(self, text: str) -> bool:
        """Tell whether an answer has gone past the fork."""
        return text.startswith(f"{self.text}\n") or (len(text) > self.fork and self.text.startswith(text))


class AvoidedBeginnings:
    """The rule by which tokens are banned, so that an answer does not begin with given lines. Called once per token.

    The answer may follow the avoided lines up to a fork, and must go another way there:

    - Where the last line has two words (``goto kitchen``), the fork is before the second, so that another room or thing is named. A
      number behind them belongs to them, and of it only the last digit: ``goto room 13`` may replace ``goto room 12``.
    - Elsewhere (``explore``, ``pickup red ball in kitchen``) the fork is before the last line, so that another skill is chosen.
      With a fork before its last word the bundled planner names the same ball in rooms where it is not (``docs/lab-notes.md``).

    Banned is every token with which the answer would go past the fork along the avoided lines. Pieces of a word are banned too
    (`` kit`` for `` kitchen``), because a model spells a word in other tokens where its usual token is banned. So the rule forbids
    more than the lines: whatever begins with the same token after the fork, such as ``pickup blue box`` instead of ``pickup red
    ball``.

    Texts are compared, not tokens. Upper and lower case, white space, blank lines, and bullets or numbers before a line make no
    difference, and tokens that hold a line break are known. Of several avoided texts each bans its own tokens. A token that ends
    the answer is never banned, so there is always a token left. Lines that follow reasoning (``<think>``) are not recognized.

    Parameters
    ----------
    texts
        The beginnings to avoid, one or more whole lines each.
    decode
        Turns the tokens of an answer into text, without special tokens.
    vocabulary
        The tokens that ``decode`` knows.
    """

    def __init__(self, texts: Sequence[str], decode: Callable[[Sequence[int]], str], vocabulary: Vocabulary) -> None:
        self._avoided = [_Avoided.of(text) for text in texts]
        self._decode, self._vocabulary = decode, vocabulary

    def __call__(self, tokens: Sequence[int]) -> list[int]:
        """List the tokens with which an answer that begins with ``tokens`` must not go on, in rising order."""
        text = _plain_lines(self._decode(tokens).rstrip(_PARTIAL))
        followed = [(avoided, rest) for avoided in self._avoided if (rest := avoided.rest(text))]
        return sorted({token for avoided, rest in followed for token in self._entering(avoided, rest, tokens)})

    def _entering(self, avoided: _Avoided, rest: str, tokens: Sequence[int]) -> list[int]:
        shared = len(avoided.text) - len(rest)
        found = self._vocabulary.beginnings(rest, avoided.fork - shared + 1)
        return [token for token in found if avoided.entered(_plain_lines(self._decode([*tokens, token])))]


def _plain(text: str) -> str:
    """Write a text in lower case with single spaces."""
    return " ".join(text.casefold().split())


def _plain_lines(text: str) -> str:
    """Write each line in lower case with single spaces, without bullets and numbers. Blank lines are left out."""
    lines = (_plain(_MARKER.sub("", line)) for line in text.splitlines())
    return "\n".join(line for line in lines if line)
