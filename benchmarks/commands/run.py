"""``erecap run``."""

from pathlib import Path
from typing import Annotated

import structlog
import typer

from benchmarks.backends.makers import backend_maker
from benchmarks.backends.registry import EXPERT
from benchmarks.commands import agent_options, executors
from benchmarks.commands import clock as clocks
from benchmarks.commands.choices import choose_suite, make_loop, slug
from benchmarks.commands.ranks import on_ranks
from benchmarks.commands.results import make_results, print_results
from benchmarks.comparison.run import Comparison, Results
from benchmarks.output.logs import configure_logging
from benchmarks.runs.closed_loop import ClosedLoop, step_limits
from benchmarks.runs.gif import check_gif, record_gif

log = structlog.get_logger(__name__)


@on_ranks
def run(
    backend: Annotated[
        str,
        typer.Option(
            help="Backend spec: a name that `erecap backends` lists, or your own my_package.module:factory. Options stand behind "
            "?, such as baseline?model=DIR&format=lines, which holds plans to what the world can read."
        ),
    ] = "expert",
    suite: Annotated[str | None, typer.Option(help="Suite to play; `erecap suites` lists them.")] = None,
    env: Annotated[str | None, typer.Option(help="One environment instead of a suite, by gymnasium id.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Episodes; the suite's own number by default.")] = None,
    seed: Annotated[int, typer.Option(help="Number of the run; it selects a block of seeds.")] = 0,
    training_seeds: Annotated[
        bool, typer.Option("--training-seeds", help="Play seeds that may be trained on, instead of held-out ones.")
    ] = False,
    gif: Annotated[Path | None, typer.Option(help="Write the first episode here as a GIF.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/run-SUITE-BACKEND-SEED by default.")] = None,
    horizon: agent_options.Reach = None,
    no_replan_on: agent_options.Never = None,
    replan_every: agent_options.Every = None,
    max_replans: agent_options.MaxReplans = agent_options.MAX_REPLANS,
    max_new_tokens: agent_options.MaxNewTokens = agent_options.MAX_NEW_TOKENS,
    observe: agent_options.Observe = True,
    start_early: agent_options.StartEarly = False,
    prompt: agent_options.Style = "trained",
    clock: clocks.Rate = None,
    clock_source: clocks.Source = None,
    executor: executors.Name = executors.LOCAL,
    workers: executors.Workers = None,
    envs: executors.Envs = 1,
    address: executors.Address = None,
    cpus_per_worker: executors.Cpus = None,
    gpus_per_worker: executors.Gpus = None,
    working_dir: executors.WorkingDir = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Show each plan on stderr as soon as it is made: its lines, why it was asked for, its seconds."
        ),
    ] = False,
) -> None:
    """Play episodes with one backend and print its results.

    The expert plays the same episodes, because SPL is relative to its steps. In an environment without an expert, both are left
    out. The same command continues a stopped run; an episode that was stopped leaves its records so far in the run directory, as
    unfinished-*.jsonl. The last line of stdout is one JSON object.
    """
    if verbose:
        configure_logging(verbose=True)
    agent = agent_options.AgentOptions(
        horizon, no_replan_on, replan_every, max_replans, max_new_tokens, observe, start_early, prompt
    )
    where = executors.make(executor, workers, executors.RayOptions(address, cpus_per_worker, gpus_per_worker, working_dir), envs)
    chosen = choose_suite(suite, env)
    loop = make_loop(chosen, backend, episodes, seed, training_seeds, agent)
    if len(loop.backends) != 1:
        raise ValueError(
            f"backend {','.join(loop.backends)!r} names {len(loop.backends)}: run takes one, `erecap compare` takes several"
        )
    by_rate = clocks.make_clocks(clock, clock_source)
    clocks.check_early(by_rate, start_early)
    if len(by_rate) != 1:
        raise ValueError(f"--clock {clock!r} gives {len(by_rate)} rates: run takes one, `erecap compare` takes several")
    if gif is not None:
        check_gif(loop.jobs(EXPERT, {})[0], gif)
    kind = f"{'training-' if training_seeds else ''}{seed}{agent.suffix}{clocks.suffix(by_rate)}"
    name = f"run-{slug(chosen.name)}-{slug(loop.backends[0])}-{kind}"
    comparison = Comparison("run", loop, out or Path("runs") / name, where, replay_prompts=0)
    comparison = clocks.with_only_clock(comparison, by_rate)
    results = make_results(comparison)
    print_results(results)
    if gif is not None:
        _record(comparison.loop, results, gif)


def _record(loop: ClosedLoop, results: Results, gif: Path) -> None:
    """Play the first episode once more, with the same step limit, and save its frames."""
    expert = results.played[EXPERT].episodes.values() if EXPERT in results.played else ()
    job = loop.jobs(loop.backends[0], step_limits(loop.suite, expert))[0]
    episode = record_gif(job, backend_maker()(job.backend), loop.config, gif)
    log.info("wrote the first episode", gif=str(gif), env_id=job.env_id, seed=job.seed, end=episode.end, steps=episode.env_steps)
