"""``erecap ablate``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.backends.registry import BackendFactory, parse_specs
from benchmarks.backends.threads import threads_per_worker
from benchmarks.commands.outcome import INTERRUPTED
from benchmarks.comparison.ablation import choose_rows, comparisons, markdown, write_ablation
from benchmarks.comparison.run import run_comparison
from benchmarks.output.console import result_console
from benchmarks.runs.progress import Progress


def ablate(
    suites: Annotated[str, typer.Option(help="Suites, separated by commas; those of the published grid by default.")] = "",
    backends: Annotated[str, typer.Option(help="Backend specs instead of the grid's; the unpruned baseline is added.")] = "",
    episodes: Annotated[int | None, typer.Option(help="Episodes per cell instead of the grid's.")] = None,
    seed: Annotated[int, typer.Option(help="Which held-out block of seeds to play.")] = 0,
    out: Annotated[Path, typer.Option(help="Directory of the grid; started again, it goes on from what is there.")] = Path(
        "runs/ablation"
    ),
    workers: Annotated[int, typer.Option(help="Processes that play episodes.")] = 1,
    replay_prompts: Annotated[int, typer.Option(help="Prompts in each suite's paired replay; 0 leaves it out.")] = 24,
) -> None:
    """Play a grid of selectors, keep ratios and suites on the same seeds; write the table and success against cost.

    The last line of stdout is one JSON object.
    """
    rows = choose_rows([name for name in suites.split(",") if name], parse_specs(backends) if backends else [], episodes)
    summaries = []
    for comparison in comparisons(rows, out, seed, workers, replay_prompts):
        factory = BackendFactory(threads_per_worker(workers))
        summaries.append(run_comparison(comparison, factory, Progress(comparison.loop), make_here=BackendFactory()))
        if not summaries[-1].complete:
            break
    written = write_ablation(summaries, out)
    result_console().print(markdown(summaries), markup=False)
    complete = len(summaries) == len(rows) and all(summary.complete for summary in summaries)
    typer.echo(json.dumps({"complete": complete, "files": [str(path) for path in written]}))
    if not complete:
        raise typer.Exit(INTERRUPTED)
