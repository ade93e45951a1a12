"""The table about replanning: for the terminal (rich) and for documents (Markdown), from the same columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from benchmarks.comparison.schema import LengthSpread, ReplanSummary, Summary
from benchmarks.reports.cells import markdown_table, terminal_table
from benchmarks.reports.format import NONE, decimals, percent

REASON_HEADERS: Mapping[str, str] = {
    "start": "start",
    "failure": "failure",
    "surprise": "surprise",
    "goal_changed": "goal",
    "subgoal_reached": "subgoal",
    "plan_end": "end",
    "interval": "interval",
    "parse_error": "unread",
}
"""Reasons of a replan as headers of columns."""
LEGEND = (
    "reasons: share of all plans (goal: changed; subgoal: reached early; end: of the plan; unread: asked again); forced: failure, "
    "surprise, goal, of plans after the start; lines, tokens: p50 / p90; reused: of a plan, what was left of the one before (mean "
    "over lines); recovered: forced replans with a further subgoal after; repeated: equal to the plan before; decode: of the time"
)


@dataclass(frozen=True)
class ReplanColumn:
    """One column of the table.

    Attributes
    ----------
    header : str
        Its title.
    cell : callable
        Makes the text of a cell from the backend's figures.
    """

    header: str
    cell: Callable[[ReplanSummary], str]


def _reason(name: str) -> ReplanColumn:
    return ReplanColumn(REASON_HEADERS.get(name, name), lambda r: percent(r.reasons.get(name, 0.0)))


def _length(spread: LengthSpread) -> str:
    return NONE if spread.p50 is None else f"{decimals(spread.p50, 0)} / {decimals(spread.p90, 0)}"


COLUMNS = (
    ReplanColumn("forced", lambda r: percent(r.forced)),
    ReplanColumn("plan lines", lambda r: _length(r.plan_lines)),
    ReplanColumn("plan tokens", lambda r: _length(r.plan_tokens)),
    ReplanColumn("reused", lambda r: percent(None if r.reuse is None else r.reuse.lines_mean)),
    ReplanColumn("recovered", lambda r: percent(None if r.recovery is None else r.recovery.recovered)),
    ReplanColumn("repeated", lambda r: percent(r.repeated)),
    ReplanColumn("decode", lambda r: percent(r.decode_share)),
)
"""Columns to the right of the reasons."""


def replan_columns(figures: Sequence[ReplanSummary]) -> tuple[ReplanColumn, ...]:
    """Choose the columns: the reasons that occurred with one of the backends, then ``COLUMNS``."""
    names = dict.fromkeys(name for r in figures for name in r.reasons)
    return (*(_reason(name) for name in names if any(r.reasons.get(name) for r in figures)), *COLUMNS)


def replan_cells(summary: Summary) -> list[list[str]]:
    """Return the header and one row per backend; empty where no backend has figures about its replans."""
    figures = {name: b.replans for name, b in summary.backends.items() if b.replans is not None}
    if not figures:
        return []
    columns = replan_columns(list(figures.values()))
    head = ["replanning", *(column.header for column in columns)]
    return [head, *([name, *(column.cell(r) for column in columns)] for name, r in figures.items())]


def replan_table(summary: Summary) -> Table | None:
    """Make the table for a terminal; ``None`` where no backend has figures about its replans."""
    return terminal_table(replan_cells(summary), LEGEND)


def replan_markdown(summary: Summary) -> str:
    """Write the table for a document; empty where no backend has figures about its replans."""
    return markdown_table(replan_cells(summary), LEGEND)
