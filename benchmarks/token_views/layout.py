"""Tokens laid out as lines of a page in a monospace type: where each piece of a token's text stands. Draws nothing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

NEWLINE = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
HEAD_SHARE = 0.3


@dataclass(frozen=True)
class Piece:
    """Text of one token on one line, from column ``column`` on; ``token`` is -1 for what belongs to none."""

    token: int
    line: int
    column: int
    text: str


@dataclass(frozen=True)
class Page:
    """Pieces in reading order; ``left_out`` counts the tokens that are not on it."""

    pieces: tuple[Piece, ...]
    lines: int
    columns: int
    left_out: int


def lay_out(texts: Sequence[str], columns: int, max_tokens: int) -> Page:
    """Lay out at most ``max_tokens`` tokens on lines of ``columns`` characters; line breaks are kept, with a mark in their place.

    Of longer prompts the middle is left out, with a note: the newest part gets most of the room.
    """
    if columns < 20 or max_tokens < 2:
        raise ValueError(f"columns={columns}, max_tokens={max_tokens}: give at least 20 columns and 2 tokens")
    head, tail = _shown(len(texts), max_tokens)
    pen = _Pen(columns)
    pieces = list(pen.write((index, texts[index]) for index in range(head)))
    left_out = tail - head
    if left_out:
        pieces.append(pen.note(f"... {left_out} tokens left out ...", bool(pieces) and not pen.fresh))
    pieces += pen.write((index, texts[index]) for index in range(tail, len(texts)))
    width = max((piece.column + len(piece.text) for piece in pieces), default=columns)
    return Page(tuple(pieces), max((piece.line for piece in pieces), default=0) + 1, width, left_out)


def _shown(tokens: int, max_tokens: int) -> tuple[int, int]:
    """(one past the last of the head, first of the tail)."""
    if tokens <= max_tokens:
        return tokens, tokens
    head = round(max_tokens * HEAD_SHARE)
    return head, tokens - (max_tokens - head)


class _Pen:
    """Where the next character goes."""

    def __init__(self, columns: int) -> None:
        self._columns, self._line, self._column = columns, 0, 0

    @property
    def fresh(self) -> bool:
        """Whether the line is still empty."""
        return self._column == 0

    def write(self, tokens: Iterable[tuple[int, str]]) -> Iterator[Piece]:
        """The pieces of ``tokens`` (number, text)."""
        for token, text in tokens:
            for number, part in enumerate(text.split("\n")):
                if number:
                    yield self._put(token, NEWLINE)
                    self._break()
                yield from self._wrapped(token, part.replace("\t", "    ").replace("\r", ""))

    def note(self, text: str, begun: bool) -> Piece:
        """A line of its own."""
        if begun:
            self._break()
        piece = self._put(-1, text)
        self._break()
        return piece

    def _wrapped(self, token: int, text: str) -> Iterator[Piece]:
        if self._column + len(text) > self._columns and not self.fresh:
            self._break()
        for begin in range(0, len(text), self._columns):
            if begin:
                self._break()
            yield self._put(token, text[begin : begin + self._columns])

    def _put(self, token: int, text: str) -> Piece:
        piece = Piece(token, self._line, self._column, text)
        self._column += len(text)
        return piece

    def _break(self) -> None:
        self._line, self._column = self._line + 1, 0
