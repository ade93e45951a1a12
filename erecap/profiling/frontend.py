"""What a command line adds to the measurements: its name, its display of progress, plots, further checks and subcommands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erecap.profiling.doctor import Check
from erecap.profiling.progress import LineProgress, Progress


@dataclass(frozen=True)
class Subcommand:
    """A subcommand that the host adds to the measurements.

    Attributes
    ----------
    text
        One line of help.
    run
        Runs it with its arguments, its own ``--help`` among them, and returns the exit code.
    """

    text: str
    run: Callable[[Sequence[str]], int]


def _no_plot(content: Mapping[str, Any], result: Path) -> Path | None:
    return None


def _no_planner_check() -> list[Check]:
    return [Check("bundled planner", "ok", "not checked here: `erecap doctor` lets it plan")]


@dataclass(frozen=True)
class Frontend:
    """The command line that the measurements run under. The default is the bare module's.

    Attributes
    ----------
    prog
        How users call it.
    progress
        Where progress is shown.
    plot
        Draws the content of a result file to a picture beside it and returns its path, or ``None`` where there is nothing to draw.
    checks
        Checks of ``env`` besides those of this package. Each returns its findings.
    subcommands
        Further subcommands by name.
    preload
        Modules that the command line itself imports. Processes that a measurement starts have them from the start.
    """

    prog: str = "python -m erecap.profiling"
    progress: Progress = field(default_factory=LineProgress)
    plot: Callable[[Mapping[str, Any], Path], Path | None] = _no_plot
    checks: Sequence[Callable[[], Sequence[Check]]] = (_no_planner_check,)
    subcommands: Mapping[str, Subcommand] = field(default_factory=dict)
    preload: Sequence[str] = ()
