"""``erecap ablate``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.backends.registry import parse_specs
from benchmarks.commands import agent_options, executors
from benchmarks.commands.results import code_of, make_all
from benchmarks.comparison.grid import choose_rows, comparisons
from benchmarks.output.console import result_console
from benchmarks.output.lock import OutputLock
from benchmarks.reports.ablation import ablation_markdown, write_ablation


def ablate(
    suites: Annotated[str, typer.Option(help="Suites, separated by commas; those of the published grid by default.")] = "",
    backends: Annotated[
        str, typer.Option(help="Backend specs instead of the grid's, separated by commas; the unpruned baseline is added.")
    ] = "",
    episodes: Annotated[
        int | None, typer.Option(help="Episodes per backend and suite; those of the published grid by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Number of the run; it selects a block of held-out seeds.")] = 0,
    out: Annotated[Path, typer.Option(help="Directory of the grid. The same command continues what is there.")] = Path(
        "runs/ablation"
    ),
    replay_prompts: Annotated[int, typer.Option(help="Prompts in each suite's paired replay; 0 leaves it out.")] = 24,
    horizon: agent_options.Reach = None,
    executor: executors.Name = executors.LOCAL,
    workers: executors.Workers = None,
    envs: executors.Envs = 1,
    address: executors.Address = None,
    cpus_per_worker: executors.Cpus = None,
    gpus_per_worker: executors.Gpus = None,
    working_dir: executors.WorkingDir = None,
) -> None:
    """Play a grid of selectors, keep ratios and suites on the same seeds.

    The directory gets ablation.md and plots of success against cost. The last line of stdout is one JSON object.
    """
    where = executors.make(executor, workers, executors.RayOptions(address, cpus_per_worker, gpus_per_worker, working_dir), envs)
    rows = choose_rows([name for name in suites.split(",") if name], parse_specs(backends) if backends else [], episodes)
    reach = agent_options.AgentOptions(horizon).reach
    with OutputLock(out) as lock:
        done, stopped = make_all(comparisons(rows, out, seed, where, replay_prompts, reach))
        lock.check()
        summaries = [results.summary for results in done]
        written = write_ablation(summaries, out)
    result_console().print(ablation_markdown(summaries), markup=False)
    complete = stopped is None and all(summary.complete for summary in summaries)
    typer.echo(json.dumps({"complete": complete, "files": [str(path) for path in written]}))
    if not complete:
        raise typer.Exit(code_of(done[-1].stopped or stopped))
