"""Running many episodes: those that a run directory already holds are skipped, the others are played here or in worker processes.

Knows nothing of what a backend is made of: ``make_backend`` turns a spec string into one, in whichever process plays the episode.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agents.episode_log import EpisodeLog, read_episodes
from agents.job import EpisodeJob, EpisodeKey
from agents.loop import AgentConfig, FrameSink, run_episode
from agents.records import EpisodeRecord, Record
from agents.workers import play_in_workers
from planner import PlannerBackend

__all__ = ["EpisodeFunction", "EpisodeJob", "EpisodeKey", "MakeBackend", "Player", "run_jobs"]

MakeBackend = Callable[[str], PlannerBackend]


class EpisodeFunction(Protocol):
    """Plays one episode, hands each record to ``sink`` as it happens, and returns the last one."""

    def __call__(
        self,
        job: EpisodeJob,
        backend: PlannerBackend,
        config: AgentConfig,
        sink: Callable[[Record], None],
        frames: FrameSink | None = None,
    ) -> EpisodeRecord: ...


@dataclass
class Player:
    """Plays episodes in this process with one backend at a time, made when the first job asks for it. Picklable until then."""

    make_backend: MakeBackend
    config: AgentConfig
    episode: EpisodeFunction = run_episode
    spec: str = ""
    backend: PlannerBackend | None = None

    def __call__(self, job: EpisodeJob) -> list[str]:
        """The episode's records as JSON lines, its ``EpisodeRecord`` last."""
        if self.backend is None or self.spec != job.backend:
            self.backend = None  # frees the last model before the next one is loaded
            self.spec, self.backend = job.backend, self.make_backend(job.backend)
        records: list[Record] = []
        end = self.episode(job, self.backend, self.config, records.append)
        return [record.model_dump_json() for record in (*(r for r in records if r is not end), end)]


def run_jobs(
    jobs: Sequence[EpisodeJob],
    make_backend: MakeBackend,
    out: Path,
    config: AgentConfig,
    workers: int = 1,
    on_episode: Callable[[EpisodeRecord], None] | None = None,
    *,
    initializer: Callable[[], None] | None = None,
    episode: EpisodeFunction = run_episode,
) -> list[EpisodeRecord]:
    """Play ``jobs`` and append their records to ``out/steps.jsonl``; return the episodes in the order of the jobs.

    Jobs whose episode is there already are skipped, so that a run goes on where it was stopped. ``on_episode`` is called once per
    job, for those found in the file first. With ``workers`` > 1 episodes are played in that many fresh processes (``make_backend``,
    ``initializer`` and ``episode`` must be picklable); each calls ``initializer`` first. The episode of a worker that dies is
    played once more; if that kills another worker it is reported and left out of the result.

    Raises ``ValueError`` for ``workers`` < 1, for a ``steps.jsonl`` that is malformed or in use, and whatever an episode raises.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1: give the number of processes that play episodes")
    report = on_episode or (lambda episode: None)
    with EpisodeLog(out / "steps.jsonl") as log:
        done = read_episodes(log.path)
        todo = [job for job in dict.fromkeys(jobs) if job.key not in done]
        for job in jobs:
            if job.key in done:
                report(done[job.key])
        with closing(_play(todo, Player(make_backend, config, episode), workers, initializer)) as played:
            for lines in played:
                record = log.append(lines)
                done[(record.backend, record.env_id, record.seed)] = record
                report(record)
    return [done[job.key] for job in jobs if job.key in done]


def _play(
    jobs: Sequence[EpisodeJob], player: Player, workers: int, initializer: Callable[[], None] | None
) -> Generator[list[str], None, None]:
    if workers == 1 or not jobs:
        yield from map(player, jobs)
    else:
        yield from play_in_workers(jobs, player, min(workers, len(jobs)), initializer)
