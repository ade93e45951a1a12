"""The progress bar of a measurement: one bar for its points, with what is measured now."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

from benchmarks.output.console import plain_console, text_column
from erecap.profiling.progress import LineProgress, describe
from erecap.profiling.progress import Progress as MeasurementProgress


def make_progress(console: Console | None = None) -> MeasurementProgress:
    """Make a bar on ``console``, by default stderr, where it is a terminal; else one line per point."""
    console = console or plain_console(stderr=True)
    return BarProgress(console) if console.is_terminal else LineProgress()


class BarProgress:
    """A progress bar over the points of a measurement.

    Parameters
    ----------
    console
        Where to draw.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            text_column("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=console, transient=True)
        self._task = self._bars.add_task("getting ready", total=None)
        self._bars.start()

    def expect(self, points: int) -> None:
        """See ``Progress`` of ``erecap.profiling``."""
        self._bars.update(self._task, total=points)

    def begin(self, work: str) -> None:
        """See ``Progress`` of ``erecap.profiling``."""
        self._bars.update(self._task, description=work)

    def add(self, point: Mapping[str, Any]) -> None:
        """See ``Progress`` of ``erecap.profiling``."""
        self._bars.console.print(describe(point), highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._bars.advance(self._task)

    def close(self) -> None:
        """See ``Progress`` of ``erecap.profiling``."""
        self._bars.stop()
