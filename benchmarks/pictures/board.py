"""One picture of an episode: the map with its rooms' names, notes below it, the panel at its right."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from agents.world import Place
from benchmarks.pictures.panel import draw_panel
from benchmarks.pictures.story import Story
from benchmarks.pictures.style import (
    BACKGROUND,
    BODY,
    FAINT,
    LINE,
    MAP,
    MARGIN,
    MIN_HEIGHT,
    NOTE_LINES,
    PANEL,
    SMALL,
    TEXT,
    TONES,
    Color,
)
from benchmarks.pictures.text import cut, font, wrap

WIDTH = MAP + 2 * MARGIN + PANEL
"""Width of a picture in pixels."""
_FRAME = 3
_DESCENT = 5  # pixels of a name below its base line, outline included


def draw_board(frame: NDArray[np.uint8], story: Story) -> Image.Image:
    """Draw a picture of the episode.

    Parameters
    ----------
    frame
        The world, RGB, shape (height, width, 3).
    story
        The episode up to this moment.

    Returns
    -------
    PIL.Image.Image
        RGB, ``WIDTH`` pixels wide. Frames of one size give pictures of one size.
    """
    assert story.moment is not None
    picture = _fitted(frame)
    _name_places(picture, story.moment.scene.places)
    height = max(MIN_HEIGHT, picture.height + 3 * MARGIN + (NOTE_LINES + 1) * LINE)
    board = Image.new("RGB", (WIDTH, height), BACKGROUND)
    left = MARGIN + (MAP - picture.width) // 2
    board.paste(picture, (left, MARGIN))
    draw = ImageDraw.Draw(board)
    if story.notes:
        edge = (left - _FRAME, MARGIN - _FRAME, left + picture.width + _FRAME - 1, MARGIN + picture.height + _FRAME - 1)
        draw.rectangle(edge, outline=TONES[story.notes[-1].tone], width=_FRAME)
    below = MARGIN + picture.height + _FRAME + 2
    legend = story.moment.scene.legend
    if legend:
        draw.text((MARGIN + MAP, below), cut(legend, font(SMALL), MAP), fill=FAINT, font=font(SMALL), anchor="ra")
    _write_notes(draw, story, below + LINE, height - MARGIN)
    board.paste(draw_panel(story, height), (MAP + 2 * MARGIN, 0))
    return board


def _fitted(frame: NDArray[np.uint8]) -> Image.Image:
    """Scale the world's picture so that its longer side is ``MAP`` pixels; small ones are enlarged without blur."""
    picture = Image.fromarray(frame).convert("RGB")
    scale = MAP / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _name_places(picture: Image.Image, places: tuple[Place, ...]) -> None:
    """Write the names onto the picture, outlined, so that they can be read on any ground."""
    draw, face = ImageDraw.Draw(picture), font(SMALL, bold=True)
    for place in places:
        left, bottom = round(place.left * picture.width), round(place.bottom * picture.height)
        name = cut(place.name, face, (place.right - place.left) * picture.width)
        draw.text((left, bottom - _DESCENT), name, fill=TEXT, font=face, anchor="ls", stroke_width=2, stroke_fill=(0, 0, 0))


def _write_notes(draw: ImageDraw.ImageDraw, story: Story, top: int, bottom: int) -> None:
    """Write what happened: now, then what came before, the newest first; as much as there is room for."""
    assert story.moment is not None
    face, left = font(BODY), MARGIN + 18
    rows = [(story.moment.env_step, note, True) for note in reversed(story.notes)]
    rows += [(step, note, False) for step, note in reversed(story.past)]
    y = top
    for step, note, is_now in rows:
        lines = wrap(note.text, face, MAP - 90, 2)
        if y + len(lines) * LINE > bottom:
            break
        color = TONES[note.tone]
        draw.text((MARGIN, y), "●", fill=color if is_now else _dimmed(color), font=face)
        draw.text((MARGIN + MAP, y), f"step {step}", fill=FAINT if is_now else _dimmed(FAINT), font=font(SMALL), anchor="ra")
        for text in lines:
            draw.text((left, y), text, fill=TEXT if is_now else _dimmed(TEXT), font=face)
            y += LINE


def _dimmed(color: Color) -> Color:
    """Return a colour halfway to the background."""
    red, green, blue = ((part + back) // 2 for part, back in zip(color, BACKGROUND, strict=True))
    return red, green, blue
