"""The pool of a cluster's workers: hands out episodes, and starts those of a lost worker again.

Where a worker runs is the cluster's business. The pool asks for workers and gives the next episode to whichever is free, so it goes
on with few while others still wait for room.
"""

import pickle
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import structlog

from agents.job import EpisodeJob
from agents.workers import ATTEMPTS_PER_EPISODE, Attempt, Failed, Play
from benchmarks.cluster.protocol import Cluster, ClusterError, Share, WorkerLostError
from benchmarks.cluster.worker import WorkerFacts

T = TypeVar("T")
PATIENCE_S = 30.0  # seconds without a worker after which the log says so
_NAMED = 5  # episodes that an error names

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Worker:
    """A worker that has started, and the machine that it runs on."""

    handle: Any
    host: str

    @property
    def place(self) -> str:
        return f"a worker on {self.host}"


@dataclass
class ClusterPool:
    """A pool of workers on a cluster (``agents.pool.Pool``).

    Attributes
    ----------
    cluster : Cluster
        The cluster.
    share : Share
        What each worker takes of its node.
    workers : int
        Largest number of workers.
    code : mapping of str to str
        The code of this process, which the workers' must equal.
    """

    cluster: Cluster
    share: Share
    workers: int
    code: Mapping[str, str]
    remote: ClassVar[bool] = True
    _starting: dict[Any, Any] = field(default_factory=dict)  # handles by the ticket of their `describe`
    _idle: list[_Worker] = field(default_factory=list)
    _busy: dict[Any, tuple[_Worker, Attempt]] = field(default_factory=dict)  # by the ticket of their episode
    _lost_in_a_row: int = 0

    def play(self, jobs: Sequence[EpisodeJob], play: Play) -> Generator[list[str], None, None]:
        """Play episodes (``Pool.play``). One whose worker is lost is played once more; if that one is lost too, it is left out.

        Raises
        ------
        ClusterError
            Where no worker can start, one runs other code, or one after the other is lost.
        """
        pickled, waiting = pickle.dumps(play), deque(Attempt(job) for job in jobs)
        try:
            while waiting or self._busy:
                self._hire(len(waiting) + len(self._busy))
                while waiting and self._idle:
                    self._begin(self._idle.pop(), waiting.popleft(), pickled)
                for ticket in self._over():
                    if ticket in self._starting:
                        self._admit(ticket)
                    else:
                        yield from self._collect(ticket, waiting)
        finally:
            for worker, _ in self._busy.values():
                self.cluster.stop(worker.handle)
            self._busy.clear()

    def call(self, function: Callable[[], T]) -> T:
        """Call a picklable function in one worker (``Pool.call``). ``ClusterError`` where that worker is lost."""
        while not self._idle:
            self._hire(1)
            for ticket in self._over():
                self._admit(ticket)
        worker = self._idle.pop()
        ticket = self.cluster.submit(worker.handle, "call", pickle.dumps(function))
        while not self.cluster.wait([ticket], PATIENCE_S):
            log.info("the first worker still loads the models", host=worker.host)
        try:
            result: T | Failed = self.cluster.result(ticket)
        except WorkerLostError as lost:
            self.cluster.stop(worker.handle)
            raise ClusterError(
                f"{worker.place} died while it loaded the models: {lost}. Check that its node has the memory for them"
            ) from lost
        self._idle.append(worker)
        if isinstance(result, Failed):
            raise _exception(result, "loading the models", worker)
        return result

    def close(self) -> None:
        """End all workers."""
        for handle in [*self._starting.values(), *(worker.handle for worker in self._idle)]:
            self.cluster.stop(handle)
        self._starting.clear()
        self._idle.clear()

    def _hire(self, episodes: int) -> None:
        """Ask for workers until there is one per episode, at most ``workers``."""
        for _ in range(min(self.workers, episodes) - len(self._starting) - len(self._idle) - len(self._busy)):
            handle = self.cluster.start(self.share)
            self._starting[self.cluster.submit(handle, "describe")] = handle

    def _over(self) -> list[Any]:
        over = self.cluster.wait([*self._starting, *self._busy], PATIENCE_S)
        if not over and not self._busy:
            self.cluster.check()
            log.warning("no worker has started yet: the cluster has no room now; Ctrl-C gives up", **vars(self.share))
        return over

    def _begin(self, worker: _Worker, attempt: Attempt, pickled: bytes) -> None:
        self._busy[self.cluster.submit(worker.handle, "play", pickled, attempt.job)] = worker, attempt

    def _admit(self, ticket: Any) -> None:
        """Let a worker that has started take episodes, if it runs the same code."""
        handle = self._starting.pop(ticket)
        try:
            facts: WorkerFacts = self.cluster.result(ticket)
        except WorkerLostError as lost:
            self.cluster.stop(handle)
            log.error("a worker died while it started; another is started", cause=str(lost))
            self._count_loss(lost, [])
            return
        self._idle.append(_Worker(handle, facts.host))
        self._check_code(facts)

    def _check_code(self, facts: WorkerFacts) -> None:
        other = [
            f"{name} {theirs} instead of {self.code[name]}" for name, theirs in facts.code.items() if theirs != self.code[name]
        ]
        if other:
            raise ClusterError(
                f"a worker on {facts.host} runs other code than this process: {', '.join(other)}. "
                "Install the same erecap and packages on all nodes"
            )

    def _collect(self, ticket: Any, waiting: deque[Attempt]) -> Generator[list[str], None, None]:
        """Yield the records of an episode that is over, or queue it again where its worker was lost."""
        worker, attempt = self._busy.pop(ticket)
        try:
            result: list[str] | Failed = self.cluster.result(ticket)
        except WorkerLostError as lost:
            self.cluster.stop(worker.handle)
            again = attempt.again(host=worker.host, cause=str(lost))
            if again is not None:
                waiting.append(again)
            self._count_loss(lost, [str(left.job) for left in (*waiting, *(begun for _, begun in self._busy.values()))])
            return
        self._idle.append(worker)
        self._lost_in_a_row = 0
        if isinstance(result, Failed):
            raise _exception(result, str(attempt.job), worker)
        yield result

    def _count_loss(self, lost: WorkerLostError, left: Sequence[str]) -> None:
        """Give up when workers die without an episode finished in between: the next ones would too."""
        self.cluster.check()
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= ATTEMPTS_PER_EPISODE * (self.workers + 2):
            names = "; ".join(left[:_NAMED]) + (f"; and {len(left) - _NAMED} more" if len(left) > _NAMED else "")
            raise ClusterError(
                f"{self._lost_in_a_row} workers died in a row; the last cause: {lost}. {f'Not played: {names}. ' if names else ''}"
                "Give each worker more memory (fewer --workers, more --cpus-per-worker or --gpus-per-worker); finished episodes "
                "are kept, the same command continues the run"
            )


def _exception(failed: Failed, what: str, worker: _Worker) -> Exception:
    if failed.user_error:
        return ValueError(f"{failed.text} (from {worker.place}; --working-dir gives workers your files and packages)")
    return failed.exception(what, worker.place)
