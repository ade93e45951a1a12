"""The report of a grid (``erecap ablate``): one table per suite, and plots of success against cost."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.backends.registry import EXPERT
from benchmarks.comparison.schema import BackendSummary, PairedSummary, Summary
from benchmarks.output.files import write_atomically
from benchmarks.reports.format import NONE, decimals, percent, pipes, points, times
from benchmarks.reports.table import success

ABLATION_FILE = "ablation.md"
_HEAD = ("backend", "kept share", "tokens dropped", "success [95%]", "- unpruned [95%]", "SPL", "- unpruned [95%]", "TTFT speedup")


def write_ablation(summaries: Sequence[Summary], out: Path) -> list[Path]:
    """Write the report of a grid.

    Parameters
    ----------
    summaries : sequence of Summary
        One per suite.
    out : Path
        Directory of the grid.

    Returns
    -------
    list of Path
        The files: ``ablation.md``, then the plots of each suite.
    """
    from benchmarks.reports.frontier import write_frontiers  # matplotlib takes a second to import

    write_atomically(out / ABLATION_FILE, ablation_markdown(summaries))
    return [out / ABLATION_FILE, *(path for summary in summaries for path in write_frontiers(summary, out))]


def ablation_markdown(summaries: Sequence[Summary]) -> str:
    """Write one Markdown table per suite."""
    return "\n\n".join(_suite(summary) for summary in summaries) + "\n"


def _suite(summary: Summary) -> str:
    body = [_cells(name, cell, summary.paired.get(name)) for name, cell in summary.backends.items()]
    title = f"**{summary.suite}**, {summary.backends[summary.reference].episodes} episodes" if summary.backends else summary.suite
    unfinished = "" if summary.complete else " (incomplete)"
    return f"{title}{unfinished}\n\n{pipes(_HEAD, body)}"


def _cells(name: str, cell: BackendSummary, paired: PairedSummary | None) -> tuple[str, ...]:
    rate = success(name, cell, paired)
    if name == EXPERT or paired is None:
        return (name, NONE, NONE, rate, NONE, decimals(cell.spl, 3), NONE, NONE)
    dropped = "**none**" if cell.dropped_tokens.max == 0 else decimals(cell.dropped_tokens.p50, 0)
    return (
        name,
        percent(cell.kept_share),
        dropped,
        rate,
        points(paired.success_diff, paired.success_diff_ci95),
        decimals(cell.spl, 3),
        points(paired.spl_diff, paired.spl_diff_ci95),
        times(paired.ttft_speedup_p50),
    )
