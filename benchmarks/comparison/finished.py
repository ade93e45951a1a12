"""Finished runs as reports of several runs read them: ``config.json`` and ``summary.json``, nothing else of the run directory.

The two are small, so the repository keeps those of published runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from benchmarks.comparison.run import SUMMARY_FILE
from benchmarks.comparison.schema import Summary
from benchmarks.output.files import write_atomically
from benchmarks.runs.provenance import RUN_CONFIG_FILE, RunConfig, read_config
from benchmarks.runs.suites import SUITES
from planner.horizon import HORIZONS, Horizon


@dataclass(frozen=True)
class FinishedRun:
    """One finished run.

    Attributes
    ----------
    directory : Path
        The directory that it was read from.
    config : RunConfig
        What it was made with.
    summary : Summary
        Its figures.
    """

    directory: Path
    config: RunConfig
    summary: Summary

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read a run directory, or a kept copy of its two files.

        Raises
        ------
        ValueError
            For a directory that holds no run, a damaged file, and a run that is not finished.
        """
        for name in (RUN_CONFIG_FILE, SUMMARY_FILE):
            if not (directory / name).is_file():
                raise ValueError(
                    f"{str(directory)!r} holds no {name}: name run directories that `erecap run` or `erecap compare` has written"
                )
        summary = _read_summary(directory / SUMMARY_FILE)
        if not summary.complete:
            raise ValueError(
                f"the run in {str(directory)!r} is not finished: the command that began it continues it, so start that again first"
            )
        return cls(directory, read_config(directory / RUN_CONFIG_FILE), summary)

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.directory.resolve().name

    @property
    def horizon(self) -> Horizon:
        """How far its plans reach; one subgoal in runs that do not say so."""
        told = [b.replans.horizon for b in self.summary.backends.values() if b.replans is not None]
        return told[0] if told else "subgoal"

    @property
    def clock(self) -> float:
        """Environment steps per second of thinking; 0 where the world waited."""
        return float(self.config.arguments.get("clock") or 0)

    @property
    def order(self) -> tuple[int, str, int, float, int, str]:
        """Key for sorting: suites in their own order, then horizon, clock, seed and name."""
        suites, suite = list(SUITES), self.summary.suite
        place = suites.index(suite) if suite in suites else len(suites)
        return place, suite, HORIZONS.index(self.horizon), self.clock, self.summary.seed, self.name

    def keep(self, folder: Path) -> None:
        """Write the two files to ``folder/NAME``."""
        for name in (RUN_CONFIG_FILE, SUMMARY_FILE):
            write_atomically(folder / self.name / name, (self.directory / name).read_bytes())


def read_runs(directories: Iterable[Path]) -> list[FinishedRun]:
    """Read run directories, in whatever order they are named.

    Parameters
    ----------
    directories : iterable of Path
        Run directories, or kept copies of them.

    Returns
    -------
    list of FinishedRun
        The runs by suite, horizon, clock, seed and name.

    Raises
    ------
    ValueError
        As ``FinishedRun.read``, and for two directories of one name.
    """
    runs: dict[str, FinishedRun] = {}
    for directory in directories:
        run = FinishedRun.read(directory)
        if run.name in runs:
            raise ValueError(
                f"{str(runs[run.name].directory)!r} and {str(directory)!r} are both called {run.name!r}, and sections of the page "
                "are named after directories: name each once, or rename one"
            )
        runs[run.name] = run
    return sorted(runs.values(), key=lambda run: run.order)


def kept_directories(folder: Path) -> list[Path]:
    """Return the directories of the kept runs; empty where there are none."""
    return sorted(path.parent for path in folder.glob(f"*/{RUN_CONFIG_FILE}"))


def _read_summary(path: Path) -> Summary:
    try:
        return Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path} is no summary of a run ({error.errors()[0]['msg']}): the command that made the run computes it anew from the "
            "records, if this file is moved away"
        ) from error
