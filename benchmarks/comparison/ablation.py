"""How much of its context can a planner lose? A grid of suites and backends on the same held-out seeds, cell by cell.

Each suite is one comparison in a directory of its own (and can be read as such); what is said here is read from their summaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.loop import AgentConfig
from benchmarks.backends.registry import EXPERT
from benchmarks.comparison.run import Comparison
from benchmarks.comparison.schema import BackendSummary, PairedSummary, Summary
from benchmarks.output.files import write_atomically
from benchmarks.reports.frontier import write_frontiers
from benchmarks.reports.table import NONE, percent, pipes, points, success, times
from benchmarks.runs.closed_loop import ClosedLoop
from benchmarks.runs.suites import find_suite

REFERENCE = "baseline"
SELECTORS = ("learned", "random", "recency")
LADDER = tuple(f"erecap?keep={keep}&selector={name}" for name in SELECTORS for keep in (0.9, 0.7, 0.5, 0.3))
OTHERS = tuple(f"erecap?keep={keep}&selector={name}" for name in ("learned-steps", "attention", "key-norm") for keep in (0.7, 0.5))
ORACLE = tuple(f"erecap?keep={keep}&selector=gradient" for keep in (0.7, 0.5))
TEXT = tuple(f"baseline?{trim}={count}" for trim in ("last", "mask") for count in (8, 4))
EARLY = "&stages=0-5"
"""The bundled planner fetches what was seen long ago in the layer after the first. The seed's first stage comes behind that one, so
that whatever is dropped is needed no more; with a stage after layer 0 a scorer is tested."""
TABLE_FILE = "ablation.md"


def at(specs: Sequence[str], *keeps: float) -> tuple[str, ...]:
    """Those of ``specs`` with one of these keep ratios."""
    return tuple(spec for spec in specs if any(f"keep={keep}&" in spec for keep in keeps))


@dataclass(frozen=True)
class Row:
    """Every cell of one suite: its backends besides the unpruned one, and the episodes of each."""

    suite: str
    episodes: int
    backends: tuple[str, ...]


PUBLISHED = (
    Row("household-recall", 200, tuple(spec + EARLY for spec in LADDER + OTHERS + ORACLE) + at(LADDER, 0.7, 0.3) + TEXT),
    Row("babyai", 200, LADDER + OTHERS + TEXT),
    Row("household-long", 40, at(LADDER, 0.7, 0.5)),
)
"""The grid that `erecap ablate` plays by default."""


def choose_rows(suites: Sequence[str], backends: Sequence[str], episodes: int | None) -> list[Row]:
    """The published grid, or what is asked for instead of its suites, its backends, its numbers of episodes.

    Raises ``ValueError`` for an unknown suite.
    """
    published = {row.suite: row for row in PUBLISHED}
    rows = []
    for name in suites or published:
        row = published.get(name) or Row(name, find_suite(name).episodes, LADDER)
        rows.append(Row(name, row.episodes if episodes is None else episodes, tuple(backends) or row.backends))
    return rows


def comparisons(rows: Sequence[Row], out: Path, seed: int, workers: int, replay_prompts: int) -> list[Comparison]:
    """One comparison per suite, in ``out/SUITE``."""
    made = []
    for row in rows:
        specs = (REFERENCE, *(spec for spec in row.backends if spec not in (REFERENCE, EXPERT)))
        loop = ClosedLoop(find_suite(row.suite), specs, row.episodes, seed, AgentConfig())
        made.append(Comparison("ablate", loop, out / row.suite, workers, replay_prompts))
    return made


def write_ablation(summaries: Sequence[Summary], out: Path) -> list[Path]:
    """The table and, per suite, success against kept share and against TTFT; their paths."""
    write_atomically(out / TABLE_FILE, markdown(summaries))
    return [out / TABLE_FILE, *(path for summary in summaries for path in write_frontiers(summary, out))]


def markdown(summaries: Sequence[Summary]) -> str:
    """One table per suite."""
    return "\n\n".join(_table(summary) for summary in summaries) + "\n"


_HEAD = ("backend", "kept share", "tokens dropped", "success [95%]", "- unpruned [95%]", "SPL", "- unpruned [95%]", "TTFT speedup")


def _table(summary: Summary) -> str:
    body = [_cells(name, cell, summary.paired.get(name)) for name, cell in summary.backends.items()]
    title = f"**{summary.suite}**, {summary.backends[summary.reference].episodes} episodes" if summary.backends else summary.suite
    unfinished = "" if summary.complete else " (incomplete)"
    return f"{title}{unfinished}\n\n{pipes(_HEAD, body)}"


def _cells(name: str, cell: BackendSummary, paired: PairedSummary | None) -> tuple[str, ...]:
    rate = success(name, cell, paired)
    if name == EXPERT or paired is None:
        return (name, NONE, NONE, rate, NONE, f"{cell.spl:.3f}", NONE, NONE)
    dropped = f"{cell.dropped_tokens.p50:.0f}" if cell.dropped_tokens.max else "**none**"
    return (
        name,
        percent(cell.kept_share),
        dropped,
        rate,
        points(paired.success_diff, paired.success_diff_ci95),
        f"{cell.spl:.3f}",
        points(paired.spl_diff, paired.spl_diff_ci95),
        times(paired.ttft_speedup_p50),
    )
