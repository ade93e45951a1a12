"""The closed loop: each backend plays the same episodes.

The expert plays first: SPL is relative to its steps, and a suite's step limit is a multiple of them. It is left out only where an
environment has no expert; then there is no SPL.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agents.episode_log import EpisodeLog
from agents.guides import PromptStyle, guide_for
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.pool import Pool
from agents.records import EpisodeRecord
from agents.runner import EpisodeFunction, LostEpisodesError, MakeBackend, run_jobs
from benchmarks.backends.hidden_specs import keep_secrets
from benchmarks.backends.registry import EXPERT, choose_reference, runs_model
from benchmarks.runs.suites import Case, Suite
from planner import Horizon

STEPS_FILE = "steps.jsonl"
OnEpisode = Callable[[EpisodeRecord], None]


@dataclass(frozen=True)
class ClosedLoop:
    """The episodes to play, and the backends that play them.

    Attributes
    ----------
    suite : Suite
        Suite of the episodes.
    backends : tuple of str
        Spec strings; the expert need not be among them. Secrets in them are hidden, and remembered by ``keep_secrets``.
    episodes : int
        Episodes per backend.
    seed : int
        Number of the run; it selects a block of seeds.
    config : AgentConfig
        Settings of the agent.
    training_seeds : bool
        Whether to play seeds that may be trained on instead of held-out ones.
    user_models : tuple of str
        Those of ``backends`` that come from a user's package and run a model in this process. This is known after they are made.
    horizon : {"subgoal", "task"} or None
        How far plans reach; ``None`` for the suite's own horizon.
    prompt : {"trained", "explained", "few-shot"}
        What the planner reads besides observations (``agents.guides``). The expert reads nothing.
    expert_plays : bool
        Whether the expert plays; ``False`` for environments without one. A suite with a step limit needs it.
    """

    suite: Suite
    backends: tuple[str, ...]
    episodes: int
    seed: int
    config: AgentConfig
    training_seeds: bool = False
    user_models: tuple[str, ...] = ()
    expert_plays: bool = True
    horizon: Horizon | None = None
    prompt: PromptStyle = "trained"

    def __post_init__(self) -> None:
        object.__setattr__(self, "backends", tuple(map(keep_secrets, self.backends)))

    @property
    def all_backends(self) -> tuple[str, ...]:
        """The expert, if it plays, then the others as given."""
        others = tuple(spec for spec in self.backends if spec != EXPERT)
        return (EXPERT, *others) if self.expert_plays else others

    @property
    def model_backends(self) -> list[str]:
        """The backends that run a model in this process."""
        return [spec for spec in self.all_backends if runs_model(spec) or spec in self.user_models]

    @property
    def reference(self) -> str:
        """The backend that the others are compared with."""
        return choose_reference(self.all_backends, self.user_models)

    @property
    def plan_horizon(self) -> Horizon:
        """How far plans reach."""
        return self.horizon or self.suite.horizon

    @property
    def cases(self) -> list[Case]:
        """The episodes, the same for every backend."""
        return self.suite.cases(self.episodes, self.seed, self.training_seeds)

    def jobs(self, backend: str, limits: dict[Case, int]) -> list[EpisodeJob]:
        """Return the episodes that a backend is to play.

        Parameters
        ----------
        backend : str
            Spec string.
        limits : dict of Case to int
            Step limits by case. In a suite with step limits, a case without one is left out, except for the expert.

        Returns
        -------
        list of EpisodeJob
            One job per case.
        """
        limited = backend != EXPERT and self.suite.step_limit_factor is not None
        cases = [case for case in self.cases if case in limits or not limited]
        made = [self._job(backend, case, limits[case] if limited else None) for case in cases]
        return made if backend == EXPERT else [replace(job, guide=guide_for(job, self.prompt)) for job in made]

    def _job(self, backend: str, case: Case, max_steps: int | None) -> EpisodeJob:
        return EpisodeJob(backend, case.env_id, case.seed, self.suite.verbosity, max_steps, self.plan_horizon)


def play(
    loop: ClosedLoop,
    make_backend: MakeBackend,
    log: EpisodeLog,
    pool: Pool | None = None,
    on_episode: OnEpisode | None = None,
    episode: EpisodeFunction = run_episode,
) -> list[EpisodeJob]:
    """Play the episodes that are missing in a run, and append their records to its ``steps.jsonl``.

    Parameters
    ----------
    loop : ClosedLoop
        The episodes and the backends.
    make_backend : MakeBackend
        Makes a backend from its spec string.
    log : EpisodeLog
        The opened ``steps.jsonl`` of the run.
    pool : Pool, optional
        Plays the episodes; this process by default.
    on_episode : callable, optional
        Called once per finished episode, those already in the directory included.
    episode : EpisodeFunction
        Plays one episode.

    Returns
    -------
    list of EpisodeJob
        The episodes that were lost because their workers died.

    Raises
    ------
    ValueError
        Where records cannot be written. Errors of backends and episodes are passed on.
    """
    lost: list[EpisodeJob] = []

    def run(jobs: list[EpisodeJob]) -> list[EpisodeRecord]:
        try:
            return run_jobs(jobs, make_backend, log, loop.config, pool, on_episode, episode=episode)
        except LostEpisodesError as error:
            lost.extend(error.jobs)
            return [log.episodes[job.key] for job in jobs if job.key in log.episodes]

    expert = run(loop.jobs(EXPERT, {})) if loop.expert_plays else []
    limits = step_limits(loop.suite, expert)
    run([job for backend in loop.all_backends if backend != EXPERT for job in loop.jobs(backend, limits)])
    return lost


def step_limits(suite: Suite, expert: Iterable[EpisodeRecord]) -> dict[Case, int]:
    """Derive the step limits of a suite from the expert's episodes.

    Parameters
    ----------
    suite : Suite
        The suite.
    expert : iterable of EpisodeRecord
        Episodes that the expert played.

    Returns
    -------
    dict of Case to int
        Environment steps per case, ``ceil(step_limit_factor * expert's steps)``; empty for a suite without a factor.
    """
    if suite.step_limit_factor is None:
        return {}
    return {Case(e.env_id, e.seed): max(1, math.ceil(suite.step_limit_factor * e.env_steps)) for e in expert}
