"""The part that ``erecap run`` and ``erecap compare`` share: play, write the report, print the table and one JSON line."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import structlog
import typer

from agents.runner import LostEpisodesError
from benchmarks.backends.makers import backend_maker
from benchmarks.comparison.run import SUMMARY_FILE, Comparison, Results, run_comparison
from benchmarks.comparison.schema import Summary
from benchmarks.output.console import result_console
from benchmarks.output.logs import details_wanted
from benchmarks.output.signals import exit_code
from benchmarks.reports.replan_table import replan_table
from benchmarks.reports.replay_table import replay_table
from benchmarks.reports.session_table import session_table
from benchmarks.reports.table import environments_table, paired_differences, summary_table
from benchmarks.reports.write import TABLE_FILE, write_report
from benchmarks.runs.executors import LocalExecutor
from benchmarks.runs.live import UNFINISHED, LiveEpisode
from benchmarks.runs.progress import ComparisonProgress

INCOMPLETE = 1
"""Exit code of a command that was not interrupted and has no complete results: episodes were lost."""
log = structlog.get_logger(__name__)


def make_results(comparison: Comparison) -> Results:
    """Run a comparison and write its report, also after Ctrl-C.

    Parameters
    ----------
    comparison : Comparison
        The comparison to run.

    Returns
    -------
    Results
        The results.

    Raises
    ------
    ValueError
        Where the run directory holds another run. Errors of backends and episodes are passed on.
    """
    factory = backend_maker(comparison.executor.threads)
    here = comparison.out if isinstance(comparison.executor, LocalExecutor) else None  # other machines have other folders
    episode = LiveEpisode(here, show=details_wanted())
    return run_comparison(
        comparison, factory, ComparisonProgress(comparison.loop), episode, make_here=backend_maker(), report=write_report
    )


def make_all(
    comparisons: Sequence[Comparison], on_results: Callable[[Results], object] = lambda results: None
) -> tuple[list[Results], KeyboardInterrupt | None]:
    """Run comparisons one after the other, until one is incomplete.

    Parameters
    ----------
    comparisons : sequence of Comparison
        The comparisons, each with its own run directory.
    on_results : callable, optional
        Called with the results of each, incomplete ones included.

    Returns
    -------
    list of Results
        What there is.
    KeyboardInterrupt or None
        What came before the last comparison had begun.

    Raises
    ------
    KeyboardInterrupt
        Where it came before there was anything.
    """
    done: list[Results] = []
    try:
        for comparison in comparisons:
            done.append(make_results(comparison))
            on_results(done[-1])
            if not done[-1].summary.complete:
                break
    except KeyboardInterrupt as stopped:
        if not done:
            raise
        return done, stopped
    return done, None


def print_results(results: Results) -> None:
    """Print the table, warnings about missing results, and one JSON line.

    Parameters
    ----------
    results : Results
        Results of a comparison.

    Raises
    ------
    typer.Exit
        If the results are incomplete: with exit code 130 after Ctrl-C (143 after SIGTERM), 1 where worker processes died.
    """
    summary = results.summary
    _print_tables(summary)
    for left in sorted(results.out.glob(UNFINISHED)):
        log.warning("an episode was not finished; what happened until then is kept until it is played again", file=str(left))
    if results.lost:
        log.error(str(LostEpisodesError(results.lost)), out=str(results.out))
    elif results.missing:
        log.warning("episodes are missing; the same command continues the run", missing=results.missing, out=str(results.out))
    elif not summary.complete:
        log.warning("the replay is unfinished; the same command continues the run", out=str(results.out))
    typer.echo(json.dumps(_headline(results)))
    if not summary.complete:
        raise typer.Exit(code_of(results.stopped))


def code_of(stopped: KeyboardInterrupt | None) -> int:
    """Return the exit code for incomplete results, from what ended the command early."""
    return INCOMPLETE if stopped is None else exit_code(stopped)


def _print_tables(summary: Summary) -> None:
    console = result_console()
    tables = (summary_table, replay_table, replan_table, session_table, environments_table)
    for table in (make(summary) for make in tables):
        if table is not None:
            console.print(table)
    for line in paired_differences(summary):
        console.print(line, markup=False)


def _headline(results: Results) -> dict[str, Any]:
    """Return the paths and the main figures."""
    out, summary = results.out, results.summary
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
