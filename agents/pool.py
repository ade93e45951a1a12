"""Pools: where episodes are played. ``LocalPool`` is this process, or worker processes beside it."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from agents.job import EpisodeJob
from agents.workers import Attempt, Initializer, Play, next_group, play_all, play_in_workers

T = TypeVar("T")


class Pool(Protocol):
    """A place where episodes are played.

    Attributes
    ----------
    remote : bool
        Whether it may be another machine than that of this process, with other devices and other files.
    """

    @property
    def remote(self) -> bool:
        """Whether it may be another machine."""
        ...

    def play(self, jobs: Sequence[EpisodeJob], play: Play) -> Generator[list[str], None, None]:
        """Play episodes. Closing the generator ends those under way.

        Parameters
        ----------
        jobs : sequence of EpisodeJob
            The episodes.
        play : Play
            Plays one episode. Picklable where the pool plays in other processes.

        Yields
        ------
        list of str
            The records of one finished episode, as JSON lines, in the order in which the episodes end.

        Raises
        ------
        ValueError
            Where an episode raised one.
        RuntimeError
            Where an episode in another process raised anything else; with its traceback.
        """
        ...

    def call(self, function: Callable[[], T]) -> T:
        """Call a function once where episodes are played, and return its result. What it raises is raised as by ``play``."""
        ...


@dataclass(frozen=True)
class LocalPool:
    """A pool on this machine.

    Parameters
    ----------
    workers : int
        Number of processes that play episodes; 1 plays them in this process.
    initializer : callable, optional
        Called once in each worker process, before its first episode. Picklable.
    envs : int
        Most episodes that a process plays at once, so that a backend answers the prompts of all of them together.

    Raises
    ------
    ValueError
        For ``workers`` or ``envs`` < 1.
    """

    workers: int = 1
    initializer: Initializer = None
    envs: int = 1
    remote: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1: give the number of processes that play episodes")
        if self.envs < 1:
            raise ValueError(f"envs={self.envs} must be at least 1: give the number of episodes that a process plays at once")

    def play(self, jobs: Sequence[EpisodeJob], play: Play) -> Generator[list[str], None, None]:
        """Play episodes (``Pool.play``)."""
        if self.workers > 1 and jobs:
            yield from play_in_workers(jobs, play, min(self.workers, len(jobs)), self.initializer, self.envs)
            return
        waiting = deque(Attempt(job) for job in jobs)
        while waiting:
            yield from (lines for _, lines in play_all(play, [attempt.job for attempt in next_group(waiting, self.envs)]))

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in this process (``Pool.call``)."""
        return function()
