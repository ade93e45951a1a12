"""GIFs of episodes that explain themselves: see ``benchmarks.pictures`` for what they show."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agents.families import make_world
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.protocols import Moment
from agents.records import EpisodeRecord, Record
from benchmarks.output.files import write_atomically
from benchmarks.pictures.board import draw_board
from benchmarks.pictures.story import Note, Story
from planner import PlannerBackend

FRAME_MS = 120
"""Time of a picture in which nothing special happens, in milliseconds."""
QUICK_MS = 50
"""The same in an episode of more than ``LONG`` pictures."""
LONG = 300
HOLD_MS = {"replan": 1400, "disturbance": 700, "failure": 1100, "success": 2500}
"""Least time of a picture with a note of each tone."""
LAST_FRAME_MS = 3000
_SAMPLES = 8  # pictures from which the colours are chosen
_COLORS = 255  # one less than a GIF holds: the last one stands for "as before"


@dataclass(frozen=True)
class _Shot:
    """One picture, as a compressed PNG file: thousands of them must fit into memory."""

    png: bytes
    hold_ms: int

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.png)).convert("RGB")


class GifWriter:
    """A ``FrameSink`` and ``MomentSink`` that draws an episode and saves it as a GIF. ``take`` is its sink for records.

    Parameters
    ----------
    job : EpisodeJob
        The episode.
    """

    def __init__(self, job: EpisodeJob) -> None:
        self._story = Story(job)
        self._shots: list[_Shot] = []
        self._frame: NDArray[np.uint8] | None = None
        self._size: tuple[int, int] | None = None

    def see(self, moment: Moment) -> None:
        """Take a moment. The picture of the step before is drawn only now: what a replan says of that step belongs into it."""
        before = self._story.moment
        if before is not None and moment.env_step != before.env_step:
            self._draw()
        self._story.see(moment)

    def take(self, record: Record) -> None:
        """Take a record of the episode."""
        self._story.take(record)

    def __call__(self, frame: NDArray[np.uint8], caption: str) -> None:
        """Take the picture of the latest moment.

        Parameters
        ----------
        frame : uint8 array of shape (height, width, 3)
            RGB.
        caption : str
            Not used: the moment says more.
        """
        self._frame = frame

    def save(self, path: Path) -> None:
        """Write the GIF.

        Parameters
        ----------
        path : Path
            Path of the file, which is replaced atomically.

        Raises
        ------
        ValueError
            Where there are no frames.
        """
        self._draw()
        if not self._shots:
            raise ValueError(f"no frames to write to {path}: the environment's render() must return one picture per step")
        pictures = self._quantized()
        usual = FRAME_MS if len(self._shots) <= LONG else QUICK_MS
        durations = [max(usual, shot.hold_ms) for shot in self._shots]
        durations[-1] = max(LAST_FRAME_MS, durations[-1])
        data = io.BytesIO()
        next(pictures).save(data, format="GIF", save_all=True, append_images=pictures, duration=durations, loop=0)
        write_atomically(path, data.getvalue())

    def _draw(self) -> None:
        """Draw the latest moment."""
        if self._frame is None:
            return
        data, board = io.BytesIO(), draw_board(self._frame, self._story)
        self._size = self._size or board.size  # a world may change the size of its frames, a GIF may not
        board.crop((0, 0, *self._size)).save(data, format="PNG", compress_level=1)
        self._shots.append(_Shot(data.getvalue(), hold_ms(self._story.notes)))
        self._frame = None

    def _quantized(self) -> Iterator[Image.Image]:
        """Reduce the pictures to one palette: then only what has changed is written."""
        step = max(1, len(self._shots) // _SAMPLES)
        samples = [shot.image() for shot in (*self._shots[::step], self._shots[-1])]
        width, height = samples[0].size
        mosaic = Image.new("RGB", (width, height * len(samples)))
        for row, sample in enumerate(samples):
            mosaic.paste(sample, (0, row * height))
        palette = mosaic.quantize(_COLORS)
        for shot in self._shots:
            yield shot.image().quantize(palette=palette, dither=Image.Dither.NONE)


def hold_ms(notes: list[Note]) -> int:
    """Return how long a picture with these notes stands at least, in milliseconds."""
    return max((HOLD_MS[note.tone] for note in notes), default=0)


def check_gif(job: EpisodeJob, path: Path) -> None:
    """Raise ``ValueError`` unless ``path`` ends in ``.gif`` and the episode's environment can be drawn. Nothing is played."""
    if path.suffix.lower() != ".gif":
        raise ValueError(f"gif={str(path)!r} must end in .gif: such as --gif out.gif")
    make_world(job, render=True).close()


def record_gif(job: EpisodeJob, backend: PlannerBackend, config: AgentConfig, path: Path) -> EpisodeRecord:
    """Play one episode and write its frames as a GIF. No records are written.

    Parameters
    ----------
    job : EpisodeJob
        The episode.
    backend : PlannerBackend
        Backend that plays it.
    config : AgentConfig
        Settings of the agent.
    path : Path
        The GIF.

    Returns
    -------
    EpisodeRecord
        How the episode ended.

    Raises
    ------
    ValueError
        Unless ``path`` ends in ``.gif``, and for an environment that cannot be drawn.
    """
    check_gif(job, path)
    writer = GifWriter(job)
    episode = run_episode(job, backend, config, writer.take, frames=writer)
    writer.save(path)
    return episode
