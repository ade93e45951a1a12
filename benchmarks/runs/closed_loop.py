"""The closed loop: each backend plays the same episodes.

The expert plays first, whether asked for or not: its steps are what SPL compares with, and what a suite's step limit is made of.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agents.loop import AgentConfig, run_episode
from agents.records import EpisodeRecord
from agents.runner import EpisodeFunction, EpisodeJob, MakeBackend, run_jobs
from benchmarks.backends.registry import EXPERT
from benchmarks.output.logs import configure_logging
from benchmarks.runs.suites import Case, Suite

STEPS_FILE = "steps.jsonl"
OnEpisode = Callable[[EpisodeRecord], None]


@dataclass(frozen=True)
class ClosedLoop:
    """What is to be played: ``backends`` are spec strings, the expert is added where it is missing."""

    suite: Suite
    backends: tuple[str, ...]
    episodes: int
    seed: int
    config: AgentConfig
    training_seeds: bool = False

    @property
    def all_backends(self) -> tuple[str, ...]:
        """The expert, then the others as given."""
        return (EXPERT, *(spec for spec in self.backends if spec != EXPERT))

    @property
    def cases(self) -> list[Case]:
        """The episodes, the same for every backend."""
        return self.suite.cases(self.episodes, self.seed, self.training_seeds)

    def jobs(self, backend: str, limits: dict[Case, int]) -> list[EpisodeJob]:
        """The cases that are in ``limits`` or need no limit of their own."""
        verbosity, limited = self.suite.verbosity, backend != EXPERT and self.suite.step_limit_factor is not None
        cases = [case for case in self.cases if case in limits or not limited]
        return [EpisodeJob(backend, case.env_id, case.seed, verbosity, limits[case] if limited else None) for case in cases]


def play(
    loop: ClosedLoop,
    make_backend: MakeBackend,
    out: Path,
    workers: int = 1,
    on_episode: OnEpisode | None = None,
    episode: EpisodeFunction = run_episode,
) -> None:
    """Play what ``out`` does not hold yet; the records are in ``out/steps.jsonl`` afterwards. Raises what ``run_jobs`` raises."""

    def run(jobs: list[EpisodeJob]) -> list[EpisodeRecord]:
        return run_jobs(jobs, make_backend, out, loop.config, workers, on_episode, initializer=configure_logging, episode=episode)

    limits = step_limits(loop.suite, run(loop.jobs(EXPERT, {})))
    run([job for backend in loop.all_backends if backend != EXPERT for job in loop.jobs(backend, limits)])


def step_limits(suite: Suite, expert: list[EpisodeRecord]) -> dict[Case, int]:
    """Steps that each case allows, ``ceil(factor * expert's steps)``; empty for a suite without a limit of its own."""
    if suite.step_limit_factor is None:
        return {}
    return {Case(e.env_id, e.seed): max(1, math.ceil(suite.step_limit_factor * e.env_steps)) for e in expert}
