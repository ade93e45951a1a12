"""What every run prints at its end: the table, what is missing, and one JSON line."""

import json
from pathlib import Path
from typing import Any

import structlog
import typer

from benchmarks.backends.registry import BackendFactory
from benchmarks.backends.threads import threads_per_worker
from benchmarks.comparison.run import SUMMARY_FILE, TABLE_FILE, Comparison, missing_episodes, run_comparison
from benchmarks.comparison.schema import Summary
from benchmarks.output.console import result_console
from benchmarks.reports.table import differences, environments, table
from benchmarks.runs.progress import Progress

INTERRUPTED = 130
log = structlog.get_logger(__name__)


def carry_out(comparison: Comparison) -> None:
    """Run ``comparison`` and print its results; exit code 130 where they are incomplete (after Ctrl-C, or where workers died)."""
    factory = BackendFactory(threads_per_worker(comparison.workers))
    summary = run_comparison(comparison, factory, Progress(comparison.loop), make_here=BackendFactory())
    _print(summary)
    missing = missing_episodes(comparison)
    if missing:
        log.warning("episodes are missing; the same command goes on from here", missing=missing, out=str(comparison.out))
    elif not summary.complete:
        log.warning("the replay is unfinished; the same command goes on from here", out=str(comparison.out))
    typer.echo(json.dumps(headline(summary, comparison.out)))
    if not summary.complete:
        raise typer.Exit(INTERRUPTED)


def _print(summary: Summary) -> None:
    console = result_console()
    console.print(table(summary))
    by_env = environments(summary)
    if by_env is not None:
        console.print(by_env)
    for line in differences(summary):
        console.print(line, markup=False)


def headline(summary: Summary, out: Path) -> dict[str, Any]:
    """Paths and main figures."""
    return {
        "summary": str(out / SUMMARY_FILE),
        "table": str(out / TABLE_FILE),
        "plots": sorted(str(path) for path in out.glob("*.png")),
        "complete": summary.complete,
        "backends": {
            name: {
                "episodes": b.episodes,
                "success_rate": b.success_rate,
                "spl": b.spl,
                "ttft_s_p50": b.ttft_s.p50,
                "replan_s_p50": b.replan_s.p50,
                "kept_share": b.kept_share,
            }
            for name, b in summary.backends.items()
        },
        "paired": {
            name: {"ttft_speedup_p50": p.ttft_speedup_p50, "of_ceiling_p50": p.of_ceiling_p50, "success_diff": p.success_diff}
            for name, p in summary.paired.items()
        },
    }
