"""Text from a stream of tokens, line by line, so that the first skill can start before the plan is complete."""

from collections.abc import Callable
from time import perf_counter


class LineStreamer:
    """A splitter of tokens into lines. It passes on each line as soon as its line break is decoded; blank lines are skipped.

    Each step decodes only the tokens since the last line break. Since lines end at a break, no line holds an incomplete character.

    Parameters
    ----------
    decode
        Turns token ids into text.
    on_line
        Called with each line, without its line break.
    """

    def __init__(self, decode: Callable[[list[int]], str], on_line: Callable[[str], None]) -> None:
        self._decode, self._on_line = decode, on_line
        self._pending: list[int] = []
        self._given = 0

    def put(self, token: int) -> None:
        """Take the next token."""
        self._pending.append(token)
        text = self._decode(self._pending)
        if "\n" not in text:
            return
        *lines, rest = text.split("\n")
        self._give(lines)
        if not rest:
            self._pending, self._given = [], 0

    def close(self) -> None:
        """End the answer: pass on the last line, which has no line break."""
        self._give(self._decode(self._pending).split("\n"))
        self._pending, self._given = [], 0

    def _give(self, lines: list[str]) -> None:
        """Pass on the lines that are new. A token may hold a line break and text after it, so a line can be decoded twice."""
        fresh, self._given = lines[self._given :], max(self._given, len(lines))
        for line in fresh:
            if line.strip():
                self._on_line(line)


class TimedAnswer:
    """An answer that is being decoded: its tokens, its text, and its times in seconds since the prompt was submitted.

    Its clock starts when it is made, so make it when the prompt is submitted. The text ends at the first end token, even if
    decoding goes on.

    Parameters
    ----------
    decode
        Turns token ids into text.
    eos_ids
        Tokens that end the text.
    on_line
        Called with each complete line that is not blank. The last line of an answer without an end token may be cut: it is none.

    Attributes
    ----------
    tokens
        All tokens so far, end tokens included.
    ttft_s
        Seconds to the first token; 0 until it is decoded.
    first_skill_s
        Seconds to the first complete line, or to the end of an answer without one; 0 until then.
    last_s
        Seconds to the last token so far.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], eos_ids: frozenset[int], on_line: Callable[[str], None] | None = None
    ) -> None:
        self._submitted = perf_counter()
        self.tokens: list[int] = []
        self.ttft_s = self.first_skill_s = self.last_s = 0.0
        self._decode, self._eos_ids, self._on_line = decode, eos_ids, on_line
        self._text_tokens: list[int] = []
        self._ended = False
        self._lines = LineStreamer(decode, self._line)

    def elapsed(self) -> float:
        """Return the seconds since the prompt was submitted."""
        return perf_counter() - self._submitted

    def put(self, token: int) -> None:
        """Take the id of the next token."""
        self.tokens.append(token)
        self.last_s = self.elapsed()
        self.ttft_s = self.ttft_s or self.last_s
        if self._ended or token in self._eos_ids:
            self._close_text()
            return
        self._text_tokens.append(token)
        self._lines.put(token)

    def text(self) -> str:
        """Close the answer and return its whole text."""
        if not self._ended:
            self._on_line = None  # what is left was cut
            self._close_text()
        return self._decode(self._text_tokens)

    def _close_text(self) -> None:
        if not self._ended:
            self._ended = True
            self._lines.close()

    def _line(self, line: str) -> None:
        self.first_skill_s = self.first_skill_s or self.elapsed()
        if self._on_line is not None:
            self._on_line(line)
