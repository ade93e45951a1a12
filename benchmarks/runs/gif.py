"""GIFs of episodes, with the current skill below each frame."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from agents.families import make_world
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import EpisodeRecord
from benchmarks.output.files import write_atomically
from planner import PlannerBackend

MAX_WIDTH = 480
CAPTION_HEIGHT = 26
FRAME_MS = 120
LAST_FRAME_MS = 1500
_DARK, _LIGHT = (24, 24, 28), (240, 240, 240)


class GifWriter:
    """A ``FrameSink`` that collects the frames of an episode and saves them as a GIF with 256 colours."""

    def __init__(self) -> None:
        self._frames: list[Image.Image] = []

    def __call__(self, frame: NDArray[np.uint8], caption: str) -> None:
        """Add one frame.

        Parameters
        ----------
        frame : uint8 array of shape (height, width, 3)
            RGB.
        caption : str
            Text below the frame.
        """
        self._frames.append(captioned(frame, caption).quantize(256))

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
        if not self._frames:
            raise ValueError(f"no frames to write to {path}: the environment's render() must return one picture per step")
        first, *rest = self._frames
        durations = [*[FRAME_MS] * len(rest), LAST_FRAME_MS]
        data = io.BytesIO()
        first.save(data, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0)
        write_atomically(path, data.getvalue())


def captioned(frame: NDArray[np.uint8], caption: str) -> Image.Image:
    """Draw a frame with a caption in a bar below it.

    Parameters
    ----------
    frame : uint8 array of shape (height, width, 3)
        RGB; shrunk where it is wider or higher than ``MAX_WIDTH`` pixels.
    caption : str
        Text, drawn on one line.

    Returns
    -------
    PIL.Image.Image
        The picture.
    """
    picture = Image.fromarray(frame)
    picture.thumbnail((MAX_WIDTH, MAX_WIDTH))
    out = Image.new("RGB", (picture.width, picture.height + CAPTION_HEIGHT), _DARK)
    out.paste(picture, (0, 0))
    draw = ImageDraw.Draw(out)
    draw.text((8, picture.height + CAPTION_HEIGHT // 2), caption, fill=_LIGHT, font=ImageFont.load_default(14), anchor="lm")
    return out


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
    writer = GifWriter()
    episode = run_episode(job, backend, config, lambda record: None, frames=writer)
    writer.save(path)
    return episode
