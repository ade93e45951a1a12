"""Text out of tokens as they come, line by line, so that the first skill can start before the plan is complete."""

from collections.abc import Callable


class LineStreamer:
    """Feeds each complete, non-blank line to ``on_line`` as soon as its line break is decoded; ``close`` gives the last one.

    Only the tokens since the last line break are decoded at each step. A line is cut at its break, so bytes of a
    character that is still incomplete never come out.
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
        """The answer is complete: give the line that has no break after it."""
        self._give(self._decode(self._pending).split("\n"))
        self._pending, self._given = [], 0

    def _give(self, lines: list[str]) -> None:
        """Give what is new of ``lines``; a token may hold a break and the start of the next line, so tokens can be seen twice."""
        fresh, self._given = lines[self._given :], max(self._given, len(lines))
        for line in fresh:
            if line.strip():
                self._on_line(line)
