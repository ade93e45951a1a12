"""Worker processes that play episodes.

Each process has a pipe of its own, so that when one dies it is known which episode it was playing, and the others play on
(``concurrent.futures`` breaks the whole pool and names nobody).
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

import structlog

from agents.job import EpisodeJob

Play = Callable[[EpisodeJob], list[str]]
Initializer = Callable[[], None] | None
TRIES = 2
GRACE_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Failed:
    """An exception in a worker, as text: not every exception survives pickling."""

    text: str
    user_error: bool

    def exception(self) -> Exception:
        return ValueError(self.text) if self.user_error else RuntimeError(f"an episode failed in a worker process\n{self.text}")


@dataclass(frozen=True)
class _Try:
    job: EpisodeJob
    number: int = 1


class _Worker:
    """One process, the pipe to it, and what it is playing."""

    def __init__(self, context: SpawnContext, play: Play, initializer: Initializer) -> None:
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, play, initializer), daemon=True)
        self._process.start()
        theirs.close()  # else the pipe would not end when the process does
        self.playing: _Try | None = None

    def begin(self, attempt: _Try) -> None:
        self.playing = attempt
        try:
            self.pipe.send(attempt.job)
        except BrokenPipeError:
            log.debug("a worker died before it was given an episode")  # the end of its pipe is read as its death

    def result(self) -> list[str] | _Failed | None:
        """What the process sent; ``None`` where it died instead."""
        try:
            received: list[str] | _Failed = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None
        return received

    def stop(self, grace_s: float = 0.0) -> int | None:
        """Hang up, give the process ``grace_s`` to leave by itself, end it; its exit code, negative for a signal."""
        self.pipe.close()
        self._process.join(grace_s)
        self._process.terminate()
        self._process.join()
        return self._process.exitcode


def play_in_workers(jobs: Sequence[EpisodeJob], play: Play, workers: int, initializer: Initializer = None) -> Iterator[list[str]]:
    """Play ``jobs`` in ``workers`` processes and yield each episode's records (JSON lines) when it is over.

    The episode of a worker that dies is played once more. An exception in an episode is raised here: ``ValueError`` as it is,
    others as ``RuntimeError`` with the worker's traceback. All processes are ended when the iterator is closed.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(_Try(job) for job in jobs)
    pool: dict[Connection, _Worker] = {}
    try:
        while waiting or pool:
            while waiting and len(pool) < workers:
                _hire(context, play, initializer, pool).begin(waiting.popleft())
            for pipe in wait(list(pool)):
                assert isinstance(pipe, Connection)
                yield from _settle(pool, pipe, waiting)
    finally:
        for worker in pool.values():
            worker.stop()


def _hire(context: SpawnContext, play: Play, initializer: Initializer, pool: dict[Connection, _Worker]) -> _Worker:
    worker = _Worker(context, play, initializer)
    pool[worker.pipe] = worker
    return worker


def _settle(pool: dict[Connection, _Worker], pipe: Connection, waiting: deque[_Try]) -> Iterator[list[str]]:
    """Take one worker's result, and give the worker its next episode or let it go."""
    worker = pool[pipe]
    assert worker.playing is not None
    result = worker.result()
    if isinstance(result, _Failed):
        raise result.exception()
    if result is None:
        _bury(pool.pop(pipe), worker.playing, waiting)
        return
    yield result  # first of all: it is to be written before anything else can go wrong
    if waiting:
        worker.begin(waiting.popleft())
    else:
        pool.pop(pipe).stop(GRACE_S)


def _bury(worker: _Worker, attempt: _Try, waiting: deque[_Try]) -> None:
    exit_code, job = worker.stop(GRACE_S), attempt.job
    again = attempt.number < TRIES
    log.error(
        "a worker died; its episode is played once more" if again else "a worker died again; its episode is left out",
        exit_code=exit_code,
        backend=job.backend,
        env_id=job.env_id,
        seed=job.seed,
    )
    if again:
        waiting.append(_Try(job, attempt.number + 1))


def _serve(pipe: Connection, play: Play, initializer: Initializer) -> None:
    """A worker's life: play what comes through the pipe until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers itself
    if initializer is not None:
        initializer()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent hung up: there is no more to do
        while True:
            pipe.send(_attempt(play, pipe.recv()))


def _attempt(play: Play, job: EpisodeJob) -> list[str] | _Failed:
    try:
        return play(job)
    except ValueError as error:
        return _Failed(str(error), user_error=True)
    except Exception:  # handed to the parent, which raises it
        return _Failed(traceback.format_exc(), user_error=False)
