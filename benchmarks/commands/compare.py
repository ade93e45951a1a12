"""``erecap compare``."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands import agent_options, executors
from benchmarks.commands import clock as clocks
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
    replay_prompts: Annotated[
        int | None,
        typer.Option(
            help="Prompts in the paired replay, 60 by default; 0 leaves it out, the default for several clocks. With session "
            "backends the replay plays whole episodes, as many as stay within this number, at least one."
        ),
    ] = None,
    replay_tokens: Annotated[
        int, typer.Option(help="Tokens decoded per prompt in the paired replay; with session backends as many as were recorded.")
    ] = 16,
    horizon: agent_options.Reach = None,
    no_replan_on: agent_options.Never = None,
    replan_every: agent_options.Every = None,
    max_replans: agent_options.MaxReplans = agent_options.MAX_REPLANS,
    max_new_tokens: agent_options.MaxNewTokens = agent_options.MAX_NEW_TOKENS,
    observe: agent_options.Observe = True,
    start_early: agent_options.StartEarly = False,
    clock: clocks.Rates = None,
    clock_source: clocks.Source = None,
    executor: executors.Name = executors.LOCAL,
    workers: executors.Workers = None,
    envs: executors.Envs = 1,
    address: executors.Address = None,
    cpus_per_worker: executors.Cpus = None,
    gpus_per_worker: executors.Gpus = None,
    working_dir: executors.WorkingDir = None,
) -> None:
    """Play the same episodes with each backend, replay recorded prompts on each, and print the differences.

    The run directory gets steps.jsonl, replay.jsonl, summary.json, table.md, config.json and plots. The same command continues a
    stopped run. The last line of stdout is one JSON object.

    With several clocks each is played into a run directory of its own, OUT/clock-RATE, and OUT gets clock.json, clock.md and
    clock.png.
    """
    agent = agent_options.AgentOptions(horizon, no_replan_on, replan_every, max_replans, max_new_tokens, observe, start_early)
    where = executors.make(executor, workers, executors.RayOptions(address, cpus_per_worker, gpus_per_worker, working_dir), envs)
    loop = make_loop(choose_suite(suite, env), backends, episodes, seed, agent=agent)
    by_rate = clocks.make_clocks(clock, clock_source)
    clocks.check_early(by_rate, start_early)
    several = len(by_rate) > 1
    directory = out or Path("runs") / f"compare-{slug(loop.suite.name)}-{seed}{agent.suffix}{clocks.suffix(by_rate)}"
    prompts = (0 if several else 60) if replay_prompts is None else replay_prompts
    comparison = Comparison("compare", loop, directory, where, prompts, replay_tokens)
    if several:
        clocks.run_sweep(comparison, by_rate)
    else:
        print_results(make_results(clocks.with_only_clock(comparison, by_rate)))
