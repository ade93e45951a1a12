"""Worker processes that play episodes.

Each process has its own pipe. When a process dies, the parent knows which episode it was playing, and the other processes go on.
A pool of ``concurrent.futures`` would stop as a whole, without naming the episode.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

import structlog

from agents.job import EpisodeJob

P = ParamSpec("P")
T = TypeVar("T")
Play = Callable[[EpisodeJob], list[str]]
"""Plays one episode and returns its records as JSON lines."""
Finished = tuple[int, list[str]]
"""An episode's place among those that were begun together, and its records as JSON lines."""
Initializer = Callable[[], None] | None
ATTEMPTS_PER_EPISODE = 2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
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


class Ready:
    """The first message of a worker: it can play."""


@runtime_checkable
class PlayTogether(Protocol):
    """A ``Play`` that can play several episodes at once."""

    def together(self, jobs: Sequence[EpisodeJob]) -> Iterator[Finished]:
        """Play episodes of one backend at once, and yield each when it has ended."""
        ...


def play_all(play: Play | PlayTogether, jobs: Sequence[EpisodeJob]) -> Iterator[Finished]:
    """Play episodes of one backend, at once where there are several.

    Raises
    ------
    ValueError
        For several episodes of a ``Play`` that plays one at a time.
    """
    if isinstance(play, PlayTogether):
        yield from play.together(jobs)
    elif len(jobs) == 1:
        yield 0, play(jobs[0])
    else:
        raise ValueError(f"{len(jobs)} episodes at once: {play!r} plays one at a time, so ask for 1")


def next_group(waiting: deque[Attempt], envs: int) -> list[Attempt]:
    """Take the next episodes to be begun together: at most ``envs``, of one backend, never one that a death has interrupted."""
    first = waiting.popleft()
    group = [first]
    while waiting and len(group) < envs and first.number == waiting[0].number == 1 and waiting[0].job.backend == first.job.backend:
        group.append(waiting.popleft())
    return group


class _Worker:
    """One process, the pipe to it, and the episodes that it is playing, by their place among those begun together."""

    def __init__(self, context: SpawnContext, play: Play, initializer: Initializer) -> None:
        self.pipe, theirs = context.Pipe()
        by_kernel = threading.current_thread() is threading.main_thread()
        self._process = context.Process(target=_serve, args=(theirs, play, initializer, by_kernel), daemon=True)
        self._process.start()
        theirs.close()  # while a copy is open here, the pipe does not end with the process
        self.playing: dict[int, Attempt] = {}
        self.ready = False

    def begin(self, group: Sequence[Attempt]) -> None:
        self.playing = dict(enumerate(group))
        try:
            self.pipe.send([attempt.job for attempt in group])
        except BrokenPipeError:
            log.debug("a worker died before it got an episode")  # the parent notices at the end of its pipe

    def result(self) -> Finished | Failed | Ready | None:
        """Return what the process sent, or ``None`` where it died."""
        try:
            received: Finished | Failed | Ready = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        return received

    def stop(self, grace_s: float = 0.0) -> int | None:
        """Close the pipe, wait ``grace_s`` seconds, then terminate the process. Return its exit code, negative for a signal."""
        self.pipe.close()
        self._process.join(grace_s)
        self._process.terminate()
        self._process.join(GRACE_S)
        self._process.kill()
        self._process.join()
        return self._process.exitcode


def play_in_workers(
    jobs: Sequence[EpisodeJob], play: Play, workers: int, initializer: Initializer = None, envs: int = 1
) -> Iterator[list[str]]:
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
    envs : int
        Most episodes that a worker plays at once.

    Yields
    ------
    list of str
        The records of one finished episode, as JSON lines.

    Raises
    ------
    ValueError
        Where an episode raised one; with the same message. Also where a worker ends before it can play, and where one after the
        other dies.
    RuntimeError
        Where an episode raised anything else; with the traceback of the worker.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(Attempt(job) for job in jobs)
    pool: dict[Connection, _Worker] = {}
    deaths = _Deaths(ATTEMPTS_PER_EPISODE * (workers + 2))
    try:
        while waiting or pool:
            while waiting and len(pool) < workers:
                _start_worker(context, play, initializer, pool).begin(next_group(waiting, envs))
            for pipe in wait(list(pool)):
                assert isinstance(pipe, Connection)
                yield from _collect(pool, pipe, waiting, deaths, envs)
    finally:
        for worker in pool.values():
            worker.stop()


def _start_worker(context: SpawnContext, play: Play, initializer: Initializer, pool: dict[Connection, _Worker]) -> _Worker:
    worker = _Worker(context, play, initializer)
    pool[worker.pipe] = worker
    return worker


def _collect(
    pool: dict[Connection, _Worker], pipe: Connection, waiting: deque[Attempt], deaths: "_Deaths", envs: int
) -> Iterator[list[str]]:
    """Yield the result of one worker. Where it has played all its episodes, give it the next ones or stop it."""
    worker = pool[pipe]
    result = worker.result()
    if isinstance(result, Ready):
        worker.ready = True
        return
    if isinstance(result, Failed):
        raise result.exception(" or ".join(str(attempt.job) for attempt in worker.playing.values()))
    if result is None:
        _handle_death(pool.pop(pipe), waiting, deaths)
        return
    deaths.in_a_row = 0
    number, lines = result
    del worker.playing[number]
    yield lines  # before anything else can fail, so that the episode is written
    if worker.playing:
        return
    if waiting:
        worker.begin(next_group(waiting, envs))
    else:
        pool.pop(pipe).stop(GRACE_S)


@dataclass
class _Deaths:
    """Deaths of workers since the last episode that was finished."""

    most: int
    """Number after which to give up: the next workers would die too."""
    in_a_row: int = 0


def _handle_death(worker: _Worker, waiting: deque[Attempt], deaths: _Deaths) -> None:
    """Log the death of a worker, and queue its episodes again, one by one, where they have attempts left.

    A worker that ended by itself before it could play was not killed by its episode, and the next one would end in the same way.
    """
    code, attempts = worker.stop(GRACE_S), list(worker.playing.values())
    if not worker.ready and (code is None or code >= 0):
        raise ValueError(_NEVER_PLAYED.format(code=code))
    deaths.in_a_row += 1
    waiting.extend(again for attempt in attempts if (again := attempt.again(exit_code=code)) is not None)
    if deaths.in_a_row >= deaths.most:
        raise ValueError(
            f"{deaths.in_a_row} worker processes died in a row, the last with exit code {code}, at {attempts[0].job}: give each "
            "more memory (fewer workers); finished episodes are kept, and starting again continues the run"
        )


_NEVER_PLAYED = (
    "a worker process ended with exit code {code} before it could play; what it said is above. Workers import the script that "
    'starts them: keep everything that should happen only once, such as run_jobs, below `if __name__ == "__main__":`, and run '
    "the script from a file, not from stdin. Or play in this process, with 1 worker"
)


def _serve(pipe: Connection, play: Play, initializer: Initializer, by_kernel: bool) -> None:
    """Play the episodes that come through the pipe, until the parent closes it. This is a worker's main function."""
    end_with_parent(by_kernel)
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach all processes of a terminal; the parent ends its workers itself
        signal.signal(number, signal.SIG_IGN)
    if initializer is not None:
        initializer()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has closed the pipe
        pipe.send(Ready())
        while True:
            for message in _played_safely(play, pipe.recv()):
                pipe.send(message)


def _played_safely(play: Play, jobs: Sequence[EpisodeJob]) -> Iterator[Finished | Failed]:
    """Yield each episode when it has ended, or as text what one of them raised."""
    try:
        yield from play_all(play, jobs)
    except ValueError as error:
        yield Failed(str(error), user_error=True)
    except Exception:  # sent to the parent, which raises it
        yield Failed(traceback.format_exc(), user_error=False)


def spawn_pool(workers: int) -> ProcessPoolExecutor:
    """Make a pool of processes that end with this one, for work of which no step needs to be named when its process dies."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent)


def end_with_parent(by_kernel: bool = True) -> None:
    """Let this process, which ``multiprocessing`` has spawned, end when its parent does, in whatever way.

    Parameters
    ----------
    by_kernel : bool
        Whether Linux may send the signal, which it does at the end of the thread that started this process. A thread of this
        process watches its parent as well.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if by_kernel and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # it ended before the call
            os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent.sentinel,), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    wait([parent])
    os.kill(os.getpid(), signal.SIGKILL)


def call_safely(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Failed:
    """Call a function in a worker. Return its result, or its exception as text for the parent to raise."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        return Failed(str(error), user_error=True)
    except Exception:  # sent to the parent, which raises it
        return Failed(traceback.format_exc(), user_error=False)
