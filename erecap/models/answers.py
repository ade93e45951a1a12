"""Text from tokens as they come, line by line, so that the first skill can start before the plan is complete."""

from collections.abc import Callable
from time import perf_counter


class LineStreamer:
    """A splitter of tokens into lines: each complete line that is not blank is passed on as soon as its break is decoded.

    Only the tokens since the last line break are decoded at each step. A line ends at its break, so bytes of a character that is
    still incomplete never come out.

    Parameters
    ----------
    decode
        Turns token ids into text.
    on_line
        Gets each line, without its break.
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
        """End the answer: pass on the line that has no break after it."""
        self._give(self._decode(self._pending).split("\n"))
        self._pending, self._given = [], 0

    def _give(self, lines: list[str]) -> None:
        """Pass on the new ones of ``lines``. A token may hold a break and the start of the next line, so lines can come twice."""
        fresh, self._given = lines[self._given :], max(self._given, len(lines))
        for line in fresh:
            if line.strip():
                self._on_line(line)


class TimedAnswer:
    """One answer as it comes: its tokens, its text, and its times in seconds since the prompt was submitted.

    Make it when the prompt is submitted: its clock starts then. The text ends at the first end token, also where decoding goes on
    after it.

    Parameters
    ----------
    decode
        Turns token ids into text.
    eos_ids
        Tokens that end the text.
    on_line
        Gets each complete line that is not blank.

    Attributes
    ----------
    tokens
        All tokens so far, end tokens included.
    ttft_s
        Seconds to the first token; 0 before it.
    first_skill_s
        Seconds to the first complete line; 0 before it.
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
        """Take the next token, which is known on the host."""
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
