"""Text in pictures: fonts, and lines that fit a width."""

from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

Font = ImageFont.FreeTypeFont
ELLIPSIS = "…"


@cache
def font(size: int, bold: bool = False) -> Font:
    """Load DejaVu Sans, which matplotlib brings along, in this size in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def clean(text: str) -> str:
    """Return the text on one line: line breaks and characters that cannot be drawn become spaces."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def cut(text: str, face: Font, width: float) -> str:
    """Shorten a line with an ellipsis until it is at most ``width`` pixels wide."""
    text = clean(text)
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + ELLIPSIS) > width:
        text = text[:-1].rstrip()
    return text + ELLIPSIS


def wrap(text: str, face: Font, width: float, lines: int) -> list[str]:
    """Break a text into lines.

    Parameters
    ----------
    text
        The text.
    face
        The font that it is drawn in.
    width
        Most pixels of a line.
    lines
        Most lines, at least 1; what does not fit is cut, and an ellipsis says so.

    Returns
    -------
    list of str
        The lines; empty for an empty text.
    """
    words, out = clean(text).split(), [""]
    for index, word in enumerate(words):
        longer = f"{out[-1]} {word}".strip()
        if out[-1] == "" or face.getlength(longer) <= width:
            out[-1] = longer
        elif len(out) < lines:
            out.append(word)
        else:
            out[-1] = " ".join([out[-1], *words[index:]])
            break
    return [cut(line, face, width) for line in out if line]
