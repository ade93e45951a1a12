"""A cluster without Ray: workers are objects of this process, and tickets numbers. Calls run when the pool waits for them."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from agents.job import EpisodeJob
from benchmarks.cluster.protocol import ClusterError, Node, Share, WorkerLostError
from benchmarks.cluster.worker import EpisodeWorker

Dies = Callable[[str, tuple[Any, ...]], bool]


@dataclass
class FakeCluster:
    """Lets workers start first, and then the newest episode end first, so that episodes end in another order than they begin.

    ``room`` workers start at once; the others never do. ``dies(method, arguments)`` tells whether a call kills its worker.
    """

    room: int = 9
    dies: Dies = lambda method, arguments: False
    lost: bool = False
    workers: list[EpisodeWorker] = field(default_factory=list)
    stopped: list[EpisodeWorker] = field(default_factory=list)
    calls: dict[int, tuple[EpisodeWorker, str, tuple[Any, ...]]] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    tickets: Any = field(default_factory=count)

    def nodes(self) -> list[Node]:
        return [Node(cpus=self.room, gpus=0.0)]

    def start(self, share: Share) -> EpisodeWorker:
        self.workers.append(EpisodeWorker())
        return self.workers[-1]

    def submit(self, worker: EpisodeWorker, method: str, *arguments: Any) -> int:
        assert worker not in self.stopped, "a stopped worker was called"
        self.calls[ticket := next(self.tickets)] = worker, method, pickle.loads(pickle.dumps(arguments))
        return ticket

    def wait(self, tickets: Sequence[int], timeout_s: float) -> list[int]:
        started = [worker for worker in self.workers if worker not in self.stopped][: self.room]
        ready = [ticket for ticket in tickets if self.calls[ticket][0] in started]
        return sorted(ready, key=lambda ticket: (self.calls[ticket][1] == "play", -ticket))[:1]

    def result(self, ticket: int) -> Any:
        worker, method, arguments = self.calls.pop(ticket)
        if self.dies(method, arguments):
            self.stopped.append(worker)
            raise WorkerLostError("its process died")
        return pickle.loads(pickle.dumps(getattr(worker, method)(*arguments)))

    def check(self) -> None:
        if self.lost:
            raise ClusterError("the cluster is lost")

    def stop(self, worker: EpisodeWorker) -> None:
        self.stopped.append(worker)


@dataclass
class DiesAt:
    """Kills the worker of an episode of this seed, the first ``times`` times."""

    seed: int
    times: int

    def __call__(self, method: str, arguments: tuple[Any, ...]) -> bool:
        hit = method == "play" and isinstance(arguments[1], EpisodeJob) and arguments[1].seed == self.seed and self.times > 0
        self.times -= hit
        return hit
