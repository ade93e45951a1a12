"""Worker processes that play episodes.

Each process has its own pipe. When a process dies, the parent knows which episode it was playing, and the other processes go on.
A pool of ``concurrent.futures`` would stop as a whole, without naming the episode.
"""

import contextlib
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import ParamSpec, TypeVar

import structlog

from agents.job import EpisodeJob

P = ParamSpec("P")
T = TypeVar("T")
Play = Callable[[EpisodeJob], list[str]]
"""Plays one episode and returns its records as JSON lines."""
Initializer = Callable[[], None] | None
ATTEMPTS_PER_EPISODE = 2
GRACE_S = 5.0  # seconds that a process has to leave before it is terminated

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Failed:
    """An exception in a worker, as text, because not every exception can be pickled.

    Attributes
    ----------
    text : str
        The message of a ``ValueError``, the traceback of anything else.
    user_error : bool
        Whether it was a ``ValueError``.
    """

    text: str
    user_error: bool

    def exception(self, what: str, where: str = "a worker process") -> Exception:
        """Make the exception to raise in the parent.

        Parameters
        ----------
        what : str
            What failed, such as ``the episode of baseline in Home-v0, seed 3``.
        where : str
            The worker.
        """
        return ValueError(self.text) if self.user_error else RuntimeError(f"{what} failed in {where}\n{self.text}")


@dataclass(frozen=True)
class Attempt:
    """An episode and how often it has been started, this time included.

    Attributes
    ----------
    job : EpisodeJob
        The episode.
    number : int
        1 for the first start.
    """

    job: EpisodeJob
    number: int = 1

    def again(self, **died: object) -> "Attempt | None":
        """Log that the episode's worker died.

        Parameters
        ----------
        **died : object
            What is known of the death, for the log.

        Returns
        -------
        Attempt or None
            The next attempt; ``None`` where the episode has had ``ATTEMPTS_PER_EPISODE`` and is left out.
        """
        left, job = self.number < ATTEMPTS_PER_EPISODE, self.job
        log.error(
            "a worker died; its episode is played once more" if left else "a worker died again; its episode is left out",
            **died,
            backend=job.key[0],
            env_id=job.env_id,
            seed=job.seed,
        )
        return Attempt(job, self.number + 1) if left else None


class _Worker:
    """One process, the pipe to it, and the episode that it is playing."""

    def __init__(self, context: SpawnContext, play: Play, initializer: Initializer) -> None:
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, play, initializer), daemon=True)
        self._process.start()
        theirs.close()  # while a copy is open here, the pipe does not end with the process
        self.playing: Attempt | None = None

    def begin(self, attempt: Attempt) -> None:
        self.playing = attempt
        try:
            self.pipe.send(attempt.job)
        except BrokenPipeError:
            log.debug("a worker died before it got an episode")  # the parent notices at the end of its pipe

    def result(self) -> list[str] | Failed | None:
        """Return what the process sent, or ``None`` where it died."""
        try:
            received: list[str] | Failed = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        return received

    def stop(self, grace_s: float = 0.0) -> int | None:
        """Close the pipe, wait ``grace_s`` seconds, then terminate the process. Return its exit code, negative for a signal."""
        self.pipe.close()
        self._process.join(grace_s)
        self._process.terminate()
        self._process.join()
        return self._process.exitcode


def play_in_workers(jobs: Sequence[EpisodeJob], play: Play, workers: int, initializer: Initializer = None) -> Iterator[list[str]]:
    """Play ``jobs`` in worker processes. Closing the iterator ends all of them.

    Parameters
    ----------
    jobs : sequence of EpisodeJob
        The episodes. One whose process dies is played once more; if that process dies too, the episode is left out.
    play : Play
        Plays one episode in a worker. Picklable.
    workers : int
        Number of processes.
    initializer : callable, optional
        Called once in each process, before its first episode. Picklable.

    Yields
    ------
    list of str
        The records of one finished episode, as JSON lines.

    Raises
    ------
    ValueError
        Where an episode raised one; with the same message.
    RuntimeError
        Where an episode raised anything else; with the traceback of the worker.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(Attempt(job) for job in jobs)
    pool: dict[Connection, _Worker] = {}
    try:
        while waiting or pool:
            while waiting and len(pool) < workers:
                _start_worker(context, play, initializer, pool).begin(waiting.popleft())
            for pipe in wait(list(pool)):
                assert isinstance(pipe, Connection)
                yield from _collect(pool, pipe, waiting)
    finally:
        for worker in pool.values():
            worker.stop()


def _start_worker(context: SpawnContext, play: Play, initializer: Initializer, pool: dict[Connection, _Worker]) -> _Worker:
    worker = _Worker(context, play, initializer)
    pool[worker.pipe] = worker
    return worker


def _collect(pool: dict[Connection, _Worker], pipe: Connection, waiting: deque[Attempt]) -> Iterator[list[str]]:
    """Yield the result of one worker, then give the worker its next episode or stop it."""
    worker = pool[pipe]
    assert worker.playing is not None
    result = worker.result()
    if isinstance(result, Failed):
        raise result.exception(str(worker.playing.job))
    if result is None:
        _handle_death(pool.pop(pipe), worker.playing, waiting)
        return
    yield result  # before anything else can fail, so that the episode is written
    if waiting:
        worker.begin(waiting.popleft())
    else:
        pool.pop(pipe).stop(GRACE_S)


def _handle_death(worker: _Worker, attempt: Attempt, waiting: deque[Attempt]) -> None:
    """Log the death of a worker, and queue its episode again where it has attempts left."""
    again = attempt.again(exit_code=worker.stop(GRACE_S))
    if again is not None:
        waiting.append(again)


def _serve(pipe: Connection, play: Play, initializer: Initializer) -> None:
    """Play the episodes that come through the pipe, until the parent closes it. This is a worker's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends its workers itself
    if initializer is not None:
        initializer()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has closed the pipe
        while True:
            pipe.send(call_safely(play, pipe.recv()))


def call_safely(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Failed:
    """Call a function in a worker. Return its result, or its exception as text for the parent to raise."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        return Failed(str(error), user_error=True)
    except Exception:  # sent to the parent, which raises it
        return Failed(traceback.format_exc(), user_error=False)
