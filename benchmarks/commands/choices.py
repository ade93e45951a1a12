"""What ``erecap run`` and ``erecap compare`` make of their options: a suite or one environment, and the closed loop over it."""

import re
from dataclasses import replace

import structlog

from agents.expert_backend import has_expert
from benchmarks.backends.registry import EXPERT, parse_specs
from benchmarks.commands.agent_options import AgentOptions
from benchmarks.runs.closed_loop import ClosedLoop
from benchmarks.runs.suites import Suite, find_suite, suite_of_env

DEFAULT_SUITE = "smoke"
log = structlog.get_logger(__name__)


def choose_suite(suite: str | None, env: str | None) -> Suite:
    """Find the suite of that name, or make one of a single environment.

    Parameters
    ----------
    suite
        Name of a suite; ``smoke`` where neither is given.
    env
        Gymnasium id of an environment, instead of a suite.

    Raises
    ------
    ValueError
        Where both are given, and for one that is unknown or cannot be played.
    """
    if suite is not None and env is not None:
        raise ValueError(f"suite={suite!r} and env={env!r}: give one of --suite and --env")
    return suite_of_env(env) if env is not None else find_suite(suite or DEFAULT_SUITE)


def make_loop(
    chosen: Suite,
    backends: str,
    episodes: int | None,
    seed: int,
    training_seeds: bool = False,
    agent: AgentOptions = AgentOptions(),  # noqa: B008  # immutable
) -> ClosedLoop:
    """Make the closed loop; the expert is left out, with a warning, where the environment has none.

    Parameters
    ----------
    chosen
        The suite.
    backends
        Spec strings, separated by commas.
    episodes
        Episodes per backend; the suite's own number by default.
    seed
        Number of the run.
    training_seeds
        Whether to play seeds that may be trained on.
    agent
        How the agent plans.

    Raises
    ------
    ValueError
        For options that are unknown or out of range.
    """
    specs, count = tuple(parse_specs(backends)), chosen.episodes if episodes is None else episodes
    loop = ClosedLoop(chosen, specs, count, seed, agent.config, training_seeds, horizon=agent.reach, prompt=agent.style)
    return replace(loop, expert_plays=EXPERT in specs or _has_expert(loop))


def slug(text: str) -> str:
    """Make a file name of a suite, an environment's id or a spec string."""
    return re.sub(r"[^A-Za-z0-9.=-]+", "-", text).strip("-")


def _has_expert(loop: ClosedLoop) -> bool:
    """Ask the first episode's world for its expert. The environments of the project's own suites all have one."""
    if len(loop.suite.env_ids) > 1 or loop.suite.name != loop.suite.env_ids[0]:
        return True
    found = has_expert(loop.jobs(EXPERT, {})[0])
    if not found:
        log.warning("this environment has no expert: it is left out, and SPL, which compares with it", env_id=loop.suite.name)
    return found
