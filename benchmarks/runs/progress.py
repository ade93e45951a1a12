"""Progress bars on stderr: one per backend for its episodes, one for the replay."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from agents.records import EpisodeRecord
from benchmarks.output.console import plain_console, text_column
from benchmarks.runs.closed_loop import ClosedLoop

log = structlog.get_logger(__name__)

QUIET_S = 10.0
"""Seconds between two lines about work in progress where there is no terminal."""


class ComparisonProgress:
    """The progress bars of a comparison; a context manager. Nothing is drawn where stderr is no terminal.

    Parameters
    ----------
    loop : ClosedLoop
        What is played.
    console : Console, optional
        Where to draw; stderr by default.
    """

    def __init__(self, loop: ClosedLoop, console: Console | None = None) -> None:
        console = console or plain_console(stderr=True)
        columns = (
            text_column("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Bars(*columns, console=console, disable=not console.is_terminal)
        self._backends = {spec: self._bars.add_task(spec, total=loop.episodes) for spec in loop.all_backends}
        self._replay: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def on_episode(self, episode: EpisodeRecord) -> None:
        """Advance the bar of the episode's backend."""
        self._bars.advance(self._backends[episode.backend])

    def begin_replay(self, prompts: int) -> None:
        """Add a bar for the replay of ``prompts`` prompts."""
        self._replay = self._bars.add_task("paired replay", total=prompts)

    def on_prompt(self) -> None:
        """Advance the bar of the replay by one prompt."""
        if self._replay is not None:
            self._bars.advance(self._replay)


class StageProgress:
    """The progress bars of a long job, one per stage; a context manager. Without a terminal, notes are logged instead.

    Parameters
    ----------
    console : Console
        Where to draw.
    clock : callable, optional
        Tells the time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (
            text_column("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            text_column("{task.fields[note]}"),
        )
        self._bars = Bars(*columns, console=console, disable=not console.is_terminal)
        self._quiet = not console.is_terminal
        self._task: TaskID | None = None
        self._stage = ""
        self._done = 0.0
        self._clock = clock
        self._told_at: float | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def begin(self, stage: str, total: float) -> None:
        """Add the bar of a new stage.

        Parameters
        ----------
        stage : str
            Its name.
        total : float
            Length of the stage, in the units of ``advance``.
        """
        self._stage, self._task = stage, self._bars.add_task(stage, total=total, note="")
        self._done, self._told_at = 0.0, None

    def expect(self, total: float) -> None:
        """Correct the length of the current stage, for callers that learn it after they have begun."""
        if self._task is not None:
            self._bars.update(self._task, total=total)

    def advance(self, units: float = 1, note: str = "") -> None:
        """Advance the bar of the current stage.

        Parameters
        ----------
        units : float
            Number of units.
        note : str
            The latest result, shown beside the bar.
        """
        self._done += units
        if self._task is not None:
            self._bars.update(self._task, advance=units, note=note)
        if self._quiet and note:
            self._tell(note)

    def reach(self, done: float, note: str = "") -> None:
        """Advance to ``done`` units of the stage, for callers that count from the start of the stage."""
        self.advance(done - self._done, note)

    def beat(self, done: float, note: str) -> None:
        """Advance to ``done`` units and show work in progress; without a terminal at first, and then every ``QUIET_S`` seconds."""
        due = self._told_at is None or self._clock() - self._told_at >= QUIET_S
        if self._task is not None:
            self._bars.update(self._task, advance=done - self._done, note=note)
        self._done = done
        if self._quiet and due:
            self._tell(note)

    def _tell(self, note: str) -> None:
        log.info(self._stage, note=note)
        self._told_at = self._clock()
