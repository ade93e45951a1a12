"""``erecap compare``."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands import executors
from benchmarks.commands.choices import choose_suite, make_loop, slug
from benchmarks.commands.ranks import on_ranks
from benchmarks.commands.results import make_results, print_results
from benchmarks.comparison.run import Comparison


@on_ranks
def compare(
    suite: Annotated[str | None, typer.Option(help="Suite to play, `smoke` by default; `erecap suites` lists them.")] = None,
    env: Annotated[str | None, typer.Option(help="One environment instead of a suite, by gymnasium id.")] = None,
    backends: Annotated[
        str,
        typer.Option(
            help="Backend specs, separated by commas: names that `erecap backends` lists, or your own my_package.module:factory."
        ),
    ] = "hf-generate,baseline,erecap?keep=0.7",
    episodes: Annotated[int | None, typer.Option(help="Episodes per backend; the suite's own number by default.")] = None,
    seed: Annotated[int, typer.Option(help="Number of the run; it selects a block of held-out seeds.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/compare-SUITE-SEED by default.")] = None,
    replay_prompts: Annotated[int, typer.Option(help="Prompts in the paired replay; 0 leaves it out.")] = 60,
    replay_tokens: Annotated[int, typer.Option(help="Tokens decoded per prompt in the paired replay.")] = 16,
    executor: executors.Name = executors.LOCAL,
    workers: executors.Workers = None,
    address: executors.Address = None,
    cpus_per_worker: executors.Cpus = None,
    gpus_per_worker: executors.Gpus = None,
    working_dir: executors.WorkingDir = None,
) -> None:
    """Play the same episodes with each backend, replay recorded prompts on each, and print the differences.

    The run directory gets steps.jsonl, replay.jsonl, summary.json, table.md, config.json and plots. The same command continues a
    stopped run. The last line of stdout is one JSON object.
    """
    where = executors.make(executor, workers, executors.RayOptions(address, cpus_per_worker, gpus_per_worker, working_dir))
    loop = make_loop(choose_suite(suite, env), backends, episodes, seed)
    directory = out or Path("runs") / f"compare-{slug(loop.suite.name)}-{seed}"
    print_results(make_results(Comparison("compare", loop, directory, where, replay_prompts, replay_tokens)))
