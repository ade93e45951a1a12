"""The grid of ``erecap ablate``: suites and backends on the same held-out seeds. Each suite is one comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.loop import AgentConfig
from benchmarks.backends.registry import EXPERT
from benchmarks.comparison.run import Comparison
from benchmarks.runs.closed_loop import ClosedLoop
from benchmarks.runs.executors import Executor
from benchmarks.runs.suites import find_suite
from planner import Horizon

_UNPRUNED = "baseline"
_LADDER = tuple(f"erecap?keep={keep}&selector={name}" for name in ("learned", "random", "recency") for keep in (0.9, 0.7, 0.5, 0.3))
_OTHERS = tuple(f"erecap?keep={keep}&selector={name}" for name in ("learned-steps", "attention", "key-norm") for keep in (0.7, 0.5))
_ORACLE = tuple(f"erecap?keep={keep}&selector=gradient" for keep in (0.7, 0.5))
_TRIMMED = tuple(f"baseline?{trim}={count}" for trim in ("last", "mask") for count in (8, 4))
_EARLY = "&stages=0-5"
"""Stages that begin after layer 0. The bundled planner reads old observations in layer 1, before the default stages, so those drop
tokens that are no longer needed, and all selectors do equally well. With a stage after layer 0 the selector matters."""


def _at(specs: Sequence[str], *keeps: float) -> tuple[str, ...]:
    """Return the specs with one of these keep ratios."""
    return tuple(spec for spec in specs if any(f"keep={keep}&" in spec for keep in keeps))


@dataclass(frozen=True)
class GridRow:
    """One suite of the grid.

    Attributes
    ----------
    suite : str
        Name of the suite.
    episodes : int
        Episodes per backend.
    backends : tuple of str
        Spec strings; the unpruned planner is added to them.
    """

    suite: str
    episodes: int
    backends: tuple[str, ...]


PUBLISHED = (
    GridRow(
        "household-recall", 200, tuple(spec + _EARLY for spec in _LADDER + _OTHERS + _ORACLE) + _at(_LADDER, 0.7, 0.3) + _TRIMMED
    ),
    GridRow("babyai", 200, _LADDER + _OTHERS + _TRIMMED),
    GridRow("household-long", 40, _at(_LADDER, 0.7, 0.5)),
)
"""The grid of the published results, and the default of ``erecap ablate``."""


def choose_rows(suites: Sequence[str], backends: Sequence[str], episodes: int | None) -> list[GridRow]:
    """Choose the rows of a grid. Defaults come from the published grid.

    Parameters
    ----------
    suites : sequence of str
        Names of suites; empty for those of the published grid.
    backends : sequence of str
        Spec strings for every suite; empty for those of the published grid.
    episodes : int or None
        Episodes per backend; ``None`` for the numbers of the published grid.

    Returns
    -------
    list of GridRow
        One per suite. A suite outside the published grid gets its own default number of episodes and a range of keep ratios.

    Raises
    ------
    ValueError
        For an unknown suite.
    """
    published = {row.suite: row for row in PUBLISHED}
    rows = []
    for name in suites or published:
        row = published.get(name) or GridRow(name, find_suite(name).episodes, _LADDER)
        rows.append(GridRow(name, row.episodes if episodes is None else episodes, tuple(backends) or row.backends))
    return rows


def comparisons(
    rows: Sequence[GridRow], out: Path, seed: int, executor: Executor, replay_prompts: int, horizon: Horizon | None = None
) -> list[Comparison]:
    """Make the comparison of each row, with the unpruned planner as first backend.

    Parameters
    ----------
    rows : sequence of GridRow
        The grid.
    out : Path
        Directory of the grid; the comparison of a suite gets ``out/SUITE``.
    seed : int
        Number of the run; it selects a block of seeds.
    executor : Executor
        Plays the episodes.
    replay_prompts : int
        Prompts in each paired replay; 0 leaves it out.
    horizon : {"subgoal", "task"}, optional
        How far plans reach; each suite's own horizon by default.

    Returns
    -------
    list of Comparison
        One per row.
    """
    made = []
    for row in rows:
        specs = (_UNPRUNED, *(spec for spec in row.backends if spec not in (_UNPRUNED, EXPERT)))
        loop = ClosedLoop(find_suite(row.suite), specs, row.episodes, seed, AgentConfig(), horizon=horizon)
        made.append(Comparison("ablate", loop, out / row.suite, executor, replay_prompts))
    return made
