"""What the pool knows of a cluster. ``benchmarks.cluster.ray_cluster`` is the real one; tests have a small one without Ray."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class ClusterError(ValueError):
    """An error for a cluster that cannot be reached or cannot run what was asked."""


class WorkerLostError(Exception):
    """The loss of a worker: its process died, or its node is gone or out of reach. Its message is the cause."""


@dataclass(frozen=True)
class Share:
    """What one worker takes of its node.

    Attributes
    ----------
    cpus : float
        CPU cores, more than 0.
    gpus : float
        GPUs; below 1 several workers share one.
    """

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes
    ----------
    cpus : float
        CPU cores that the cluster may use on it.
    gpus : float
        GPUs that the cluster may use on it.
    """

    cpus: float
    gpus: float


class Cluster(Protocol):
    """A cluster that runs workers (``benchmarks.cluster.worker.EpisodeWorker``), each in a process of its own."""

    def nodes(self) -> list[Node]:
        """Return the machines that are there now."""
        ...

    def start(self, share: Share) -> Any:
        """Start a worker as soon as a node has room for it, and return its handle at once."""
        ...

    def submit(self, worker: Any, method: str, *arguments: Any) -> Any:
        """Call a method of a worker, after the calls it has had before. Return a ticket, which is hashable, for the result."""
        ...

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> list[Any]:
        """Wait until a call is over, however it ended. Return its ticket in a list, which is empty after ``timeout_s`` seconds."""
        ...

    def result(self, ticket: Any) -> Any:
        """Return the result of a call that is over.

        Raises
        ------
        WorkerLostError
            Where the worker was lost.
        ClusterError
            Where the cluster cannot start the worker, or the worker cannot read its arguments.
        """
        ...

    def check(self) -> None:
        """Raise ``ClusterError`` where this process has lost the cluster, so that no worker can start any more."""
        ...

    def stop(self, worker: Any) -> None:
        """End a worker at once. Nothing happens where it is dead."""
        ...
