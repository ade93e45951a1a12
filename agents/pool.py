"""Pools: where episodes are played. ``LocalPool`` is this process, or worker processes beside it."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from agents.job import EpisodeJob
from agents.workers import Initializer, Play, play_in_workers

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

    Raises
    ------
    ValueError
        For ``workers`` < 1.
    """

    workers: int = 1
    initializer: Initializer = None
    remote: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1: give the number of processes that play episodes")

    def play(self, jobs: Sequence[EpisodeJob], play: Play) -> Generator[list[str], None, None]:
        """Play episodes (``Pool.play``)."""
        if self.workers == 1 or not jobs:
            yield from map(play, jobs)
        else:
            yield from play_in_workers(jobs, play, min(self.workers, len(jobs)), self.initializer)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in this process (``Pool.call``)."""
        return function()
