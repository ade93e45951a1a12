"""Evaluation of a planner in closed loop on held-out seeds. Token accuracy says little about twenty plans in a row."""

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agents.episode_log import EpisodeLog, read_episodes
from agents.loop import AgentConfig
from agents.pool import LocalPool
from agents.records import EpisodeRecord
from agents.runner import LostEpisodesError
from benchmarks.backends.registry import EXPERT, BackendFactory
from benchmarks.comparison.metrics import Interval, spl, wilson_interval
from benchmarks.output.logs import configure_logging
from benchmarks.runs.closed_loop import STEPS_FILE, ClosedLoop, play
from benchmarks.runs.suites import find_suite


class SuiteScore(BaseModel):
    """The success of the planner and of the expert on one suite.

    Attributes
    ----------
    suite
        Name of the suite.
    episodes
        Number of episodes that both played.
    success, success_ci95
        The planner's success rate, 0..1, and its 95% Wilson interval.
    spl
        The planner's success weighted by path length (SPL), relative to the expert's steps, 0..1.
    expert_success
        The expert's success rate, 0..1.
    of_expert
        ``success / expert_success``; ``None`` where the expert had none.
    parse_errors
        Number of the planner's answers that could not be parsed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    episodes: int
    success: float
    success_ci95: tuple[float, float]
    spl: float
    expert_success: float
    of_expert: float | None
    parse_errors: int


def evaluate_suite(
    suite: str, model: Path, episodes: int, out: Path, workers: int, on_episode: Callable[[EpisodeRecord], None]
) -> SuiteScore:
    """Play held-out episodes of a suite with the unpruned planner and with the expert.

    Parameters
    ----------
    suite
        Name of the suite.
    model
        Directory of the planner.
    episodes
        Number of episodes that each plays.
    out
        Directory of the runs; episodes that it holds are not played again.
    workers
        Number of processes that play.
    on_episode
        Called after each episode.
    """
    spec = f"baseline?model={model}"
    loop = ClosedLoop(find_suite(suite), (spec,), episodes, seed=0, config=AgentConfig())
    pool = LocalPool(workers, configure_logging)
    with EpisodeLog(out / suite / STEPS_FILE) as log:
        lost = play(loop, BackendFactory(1 if workers > 1 else None), log, pool, on_episode)
    if lost:
        raise LostEpisodesError(lost)
    played = read_episodes(out / suite / STEPS_FILE)
    student, expert = ([played[backend, case.env_id, case.seed] for case in loop.cases] for backend in (spec, EXPERT))
    interval: Interval = wilson_interval(sum(e.success for e in student), len(student))
    success, best = (sum(e.success for e in played) / len(played) for played in (student, expert))
    return SuiteScore(
        suite=suite,
        episodes=len(student),
        success=success,
        success_ci95=interval,
        expert_success=best,
        of_expert=success / best if best else None,
        spl=sum(spl(s.success, e.env_steps, s.env_steps) for s, e in zip(student, expert, strict=True)) / len(student),
        parse_errors=sum(e.parse_errors for e in student),
    )
