"""Running many episodes: those that the run directory already holds are skipped, the others are played.

A ``Pool`` plays them, in this process or elsewhere. The runner does not know how a backend is made: ``make_backend`` turns a
spec string into one, in the process that plays the episode.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from agents.episode_log import EpisodeLog
from agents.job import EpisodeJob
from agents.loop import AgentConfig, FrameSink, run_episode
from agents.pool import LocalPool, Pool
from agents.records import EpisodeRecord, Record
from agents.together import play_together
from agents.workers import Finished
from planner import BatchBackend, PlannerBackend

MakeBackend = Callable[[str], PlannerBackend]
"""Makes a backend from its spec string."""
_NAMED = 5  # episodes that an error names


class LostEpisodesError(ValueError):
    """The error for episodes that were not finished because the workers that played them died.

    Attributes
    ----------
    jobs : list of EpisodeJob
        The episodes.
    """

    def __init__(self, jobs: Sequence[EpisodeJob]) -> None:
        self.jobs = list(jobs)
        named = "; ".join(map(str, self.jobs[:_NAMED])) + (f"; and {len(jobs) - _NAMED} more" if len(jobs) > _NAMED else "")
        super().__init__(
            f"{len(jobs)} episodes were lost, because their workers died twice: {named}. Give each worker more memory (fewer "
            "workers), or play these in one process to see what ends it; the others are kept, and starting again plays only these"
        )


class EpisodeFunction(Protocol):
    """A function that plays one episode."""

    def __call__(
        self,
        job: EpisodeJob,
        backend: PlannerBackend,
        config: AgentConfig,
        sink: Callable[[Record], None],
        frames: FrameSink | None = None,
    ) -> EpisodeRecord:
        """Play the episode.

        Parameters
        ----------
        job : EpisodeJob
            The episode.
        backend : PlannerBackend
            Who plans.
        config : AgentConfig
            Settings of the agent.
        sink : callable
            Called with each record as soon as there is one.
        frames : FrameSink, optional
            Called with each picture of the environment.

        Returns
        -------
        EpisodeRecord
            The last record, which ``sink`` has had too.
        """
        ...


@dataclass
class Player:
    """A player of episodes in this process. It holds one backend at a time and can be pickled until it has made one.

    Attributes
    ----------
    make_backend : MakeBackend
        Makes the backend of the first job, and again whenever a job asks for another one.
    config : AgentConfig
        Settings of the agent.
    episode : EpisodeFunction
        Plays one episode.
    spec : str
        Spec string of the current backend; empty before the first episode.
    backend : PlannerBackend or None
        The current backend.
    """

    make_backend: MakeBackend
    config: AgentConfig
    episode: EpisodeFunction = run_episode
    spec: str = ""
    backend: PlannerBackend | None = None

    def __call__(self, job: EpisodeJob) -> list[str]:
        """Play ``job`` and return its records as JSON lines, the ``EpisodeRecord`` last."""
        return self._play(job, self._backend(job.backend))

    def together(self, jobs: Sequence[EpisodeJob]) -> Iterator[Finished]:
        """Play episodes of one backend at once (``PlayTogether``). A backend that answers one prompt at a time plays one by one."""
        backend = self._backend(jobs[0].backend)
        if len(jobs) > 1 and isinstance(backend, BatchBackend):
            yield from play_together([partial(self._play, job) for job in jobs], backend)
        else:
            yield from ((number, self._play(job, backend)) for number, job in enumerate(jobs))

    def _backend(self, spec: str) -> PlannerBackend:
        if self.backend is None or self.spec != spec:
            self.backend = None  # frees the memory of the old model before the next one is loaded
            self.spec, self.backend = spec, self.make_backend(spec)
        return self.backend

    def _play(self, job: EpisodeJob, backend: PlannerBackend) -> list[str]:
        records: list[Record] = []
        end = self.episode(job, backend, self.config, records.append)
        return [record.model_dump_json() for record in (*(r for r in records if r is not end), end)]


def run_jobs(
    jobs: Sequence[EpisodeJob],
    make_backend: MakeBackend,
    log: EpisodeLog,
    config: AgentConfig,
    pool: Pool | None = None,
    on_episode: Callable[[EpisodeRecord], None] | None = None,
    *,
    episode: EpisodeFunction = run_episode,
) -> list[EpisodeRecord]:
    """Play the jobs that ``log`` does not hold yet and append their records to it.

    Parameters
    ----------
    jobs : sequence of EpisodeJob
        The episodes.
    make_backend : MakeBackend
        Makes a backend from its spec string. Picklable where ``pool`` plays in other processes.
    log : EpisodeLog
        The opened ``steps.jsonl`` of the run. This process alone writes it.
    config : AgentConfig
        Settings of the agent.
    pool : Pool, optional
        Plays the episodes; this process by default.
    on_episode : callable, optional
        Called once per finished episode, first for those that were found in ``log``.
    episode : EpisodeFunction
        Plays one episode. Picklable where ``pool`` plays in other processes.

    Returns
    -------
    list of EpisodeRecord
        The episodes in the order of the jobs.

    Raises
    ------
    LostEpisodesError
        Where workers died twice in the same episode; all others have then been played and are in ``log``.
    ValueError
        Where ``log`` cannot be written, or workers cannot start. What an episode raises is raised too.
    """
    report = on_episode or (lambda episode: None)
    done = log.episodes
    todo = [job for job in dict.fromkeys(jobs) if job.key not in done]
    for job in jobs:
        if job.key in done:
            report(done[job.key])
    with closing((pool or LocalPool()).play(todo, Player(make_backend, config, episode))) as played:
        for lines in played:
            report(log.append(lines))
    lost = [job for job in dict.fromkeys(jobs) if job.key not in done]
    if lost:
        raise LostEpisodesError(lost)
    return [done[job.key] for job in jobs]
