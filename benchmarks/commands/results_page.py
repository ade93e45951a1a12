"""``erecap results``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.comparison.finished import FinishedRun, kept_directories, read_runs
from benchmarks.output.files import write_atomically
from benchmarks.reports.results_page import fill_page

KEPT = Path("benchmarks/results/suites")
OUT_OF_DATE = 1  # exit code


def results(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN_DIR]...", help="Finished run directories; by default the kept ones.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Document to write; the text around its block of tables stays.")] = Path(
        "docs/results.md"
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep config.json and summary.json of the runs, and write tables of all kept runs.")
    ] = False,
    kept: Annotated[Path, typer.Option(help="Directory of the kept runs.")] = KEPT,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 if the document is out of date.")] = False,
) -> None:
    """Write the tables of finished runs into a document: success, replanning, latency, and what each run was made with.

    Reads config.json and summary.json of each run directory. A section is named after its directory. The same runs give the same
    text, so the document can be made again from the kept runs: `erecap results`.
    """
    if keep and check:
        raise ValueError("--keep writes and --check changes nothing: give one of them")
    found = _read(runs or [], kept, keep)
    before = _text(out)
    after = fill_page(before, found)
    if keep:
        for run in read_runs(runs or []):
            run.keep(kept)
    if before != after and not check:
        write_atomically(out, after)
    state = "up to date" if before == after else "out of date" if check else "written"
    typer.echo(f"{out}: {state}, {len(found)} runs")
    if check and before != after:
        raise typer.Exit(OUT_OF_DATE)


def _read(directories: Sequence[Path], kept: Path, keep: bool) -> list[FinishedRun]:
    """Read the named runs, or the kept ones where none is named; with ``keep`` both, where the named ones replace kept ones."""
    if keep and not directories:
        raise ValueError("--keep needs the directories of the runs to keep: erecap results --keep runs/compare-household-small-0")
    if directories and not keep:
        return read_runs(directories)
    named = {directory.resolve().name for directory in directories}
    chosen = [*directories, *(path for path in kept_directories(kept) if path.name not in named)]
    if not chosen:
        raise ValueError(f"there are no kept runs in {str(kept)!r}: name run directories, or another --kept")
    return read_runs(chosen)


def _text(path: Path) -> str:
    """Return the content of the document; empty where it does not exist yet."""
    return path.read_text(encoding="utf-8") if path.exists() else ""
