"""The table about sessions and drafts: for the terminal (rich) and for documents (Markdown), from the same cells."""

from rich.table import Table

from benchmarks.comparison.schema import SessionSummary, Summary
from benchmarks.reports.cells import markdown_table, terminal_table
from benchmarks.reports.format import NONE, decimals, percent, seconds

_HEAD = ["sessions", "reused", "forward passes", "tokens a pass", "drafted", "accepted", "first to fourth", "while acting"]
LEGEND = (
    "reused: share of a prompt's tokens that were held before it came (median); forward passes of a replan: p50 / p90; "
    "accepted: of the drafted tokens, then of the drafts that were as long the first to the fourth token; "
    "while acting: seconds of taking in the history, per replan"
)


def _cells(figures: SessionSummary) -> list[str]:
    passes = figures.passes
    return [
        percent(figures.reused_share),
        NONE if passes.p50 is None else f"{decimals(passes.p50, 0)} / {decimals(passes.p90, 0)}",
        decimals(figures.tokens_per_pass, 1),
        f"{figures.drafted:,}",
        percent(figures.accepted / figures.drafted) if figures.drafted else NONE,
        ", ".join(map(percent, figures.accepted_at[:4])) or NONE,
        seconds(figures.observe_s.p50),
    ]


def session_cells(summary: Summary) -> list[list[str]]:
    """Return the header and one row per backend; empty where no backend keeps sessions or drafts."""
    rows = [[name, *_cells(b.sessions)] for name, b in summary.backends.items() if b.sessions is not None]
    return [_HEAD, *rows] if rows else []


def session_table(summary: Summary) -> Table | None:
    """Make the table for a terminal; ``None`` where no backend keeps sessions or drafts."""
    return terminal_table(session_cells(summary), LEGEND)


def session_markdown(summary: Summary) -> str:
    """Write the table for a document; empty where no backend keeps sessions or drafts."""
    return markdown_table(session_cells(summary), LEGEND)
