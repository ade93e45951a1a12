"""The page: the tokens of a prompt on lines of monospace type. It holds the position of each piece of text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

NEWLINE = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
"""The character that marks a line break."""
HEAD_SHARE = 0.3
"""Share of the page's tokens that come from the beginning of the prompt, if the prompt is too long for the page."""


@dataclass(frozen=True)
class Piece:
    """A piece of one token's text, on one line.

    Attributes
    ----------
    token
        The token's number in the prompt; -1 for a note.
    line, column
        Line and column at which the text begins, from 0.
    text
        The characters.
    """

    token: int
    line: int
    column: int
    text: str


@dataclass(frozen=True)
class Page:
    """The pieces of a page.

    Attributes
    ----------
    pieces
        Pieces in reading order.
    lines, columns
        Size of the page in characters.
    left_out
        Number of tokens that are left out.
    """

    pieces: tuple[Piece, ...]
    lines: int
    columns: int
    left_out: int


def lay_out_page(texts: Sequence[str], columns: int, max_tokens: int) -> Page:
    """Lay out tokens on lines. Line breaks are kept and marked.

    Parameters
    ----------
    texts
        Text of each token.
    columns
        Width of a line in characters.
    max_tokens
        Most tokens on the page. The middle of a longer prompt is left out, with a note; most of the tokens shown are the newest.

    Raises
    ------
    ValueError
        For fewer than 20 columns or 2 tokens.
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
    """Choose the tokens on the page. Return (index one past the head's last token, index of the tail's first token)."""
    if tokens <= max_tokens:
        return tokens, tokens
    head = round(max_tokens * HEAD_SHARE)
    return head, tokens - (max_tokens - head)


class _Pen:
    """A writer of pieces that keeps the position of the next character."""

    def __init__(self, columns: int) -> None:
        self._columns, self._line, self._column = columns, 0, 0

    @property
    def fresh(self) -> bool:
        """Whether the line is empty."""
        return self._column == 0

    def write(self, tokens: Iterable[tuple[int, str]]) -> Iterator[Piece]:
        """Write ``tokens``, each (number, text)."""
        for token, text in tokens:
            for number, part in enumerate(text.split("\n")):
                if number:
                    yield self._put(token, NEWLINE)
                    self._break()
                yield from self._wrapped(token, part.replace("\t", "    ").replace("\r", ""))

    def note(self, text: str, begun: bool) -> Piece:
        """Write a note on a line of its own; ``begun`` says whether the current line must be ended first."""
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
