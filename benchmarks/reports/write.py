"""The report of a comparison: ``table.md`` and the plots, beside its ``summary.json``."""

from pathlib import Path

from benchmarks.backends.registry import EXPERT
from benchmarks.comparison.run import TABLE_FILE, Results
from benchmarks.output.files import write_atomically
from benchmarks.reports.table import summary_markdown

__all__ = ["TABLE_FILE", "write_report"]


def write_report(results: Results) -> list[Path]:
    """Write the table and the plots of a comparison into its run directory. The comparison may be incomplete.

    Parameters
    ----------
    results : Results
        Results of the comparison.

    Returns
    -------
    list of Path
        The files. A plot without points is left out.
    """
    from benchmarks.reports.plots import write_plots  # matplotlib takes a second to import
    from benchmarks.reports.reason_bars import write_reason_bars

    table = results.out / TABLE_FILE
    write_atomically(table, summary_markdown(results.summary))
    calls = {backend: played.calls for backend, played in results.played.items() if backend != EXPERT}
    return [table, *write_plots(calls, results.rows, results.out), *write_reason_bars(results.summary, results.out)]
