"""The executor that plays episodes on a Ray cluster, and how many workers fit."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from benchmarks.cluster.pool import ClusterPool
from benchmarks.cluster.protocol import ClusterError, Node, Share
from benchmarks.cluster.ray_connection import connect
from benchmarks.output.code_state import code_state

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RayExecutor:
    """An executor that plays episodes in workers of a Ray cluster (``benchmarks.runs.executors.Executor``).

    Parameters
    ----------
    address : str, optional
        Address of the cluster (``benchmarks.cluster.ray_connection.connect``).
    workers : int, optional
        Number of workers; as many as the cluster has room for by default.
    cpus : float
        CPU cores of each worker.
    gpus : float, optional
        GPUs of each worker; 1 by default where the cluster has GPUs, else 0.
    working_dir : Path, optional
        Folder that Ray copies to the nodes.

    Raises
    ------
    ValueError
        For fewer than 1 worker, no CPU cores or negative GPUs.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1.0
    gpus: float | None = None
    working_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1: leave it out for as many as the cluster has room for")
        if not 0 < self.cpus < math.inf:
            raise ValueError(f"cpus_per_worker={self.cpus} must be more than 0: 1 is the default")
        if self.gpus is not None and (not 0 <= self.gpus < math.inf or (self.gpus > 1 and self.gpus % 1)):
            raise ValueError(f"gpus_per_worker={self.gpus} must be a whole number, or a part of one GPU such as 0.5")

    @property
    def threads(self) -> int:
        """CPU threads of each worker."""
        return max(1, int(self.cpus))

    def settings(self) -> dict[str, Any]:
        """Return the settings for ``config.json``."""
        return {
            "name": "ray",
            "workers": self.workers,
            "address": self.address,
            "cpus_per_worker": self.cpus,
            "gpus_per_worker": self.gpus,
        }

    @contextmanager
    def open(self) -> Iterator[ClusterPool]:
        """Connect to the cluster; leaving the context ends the workers.

        Yields
        ------
        ClusterPool
            Plays episodes on the cluster.

        Raises
        ------
        ClusterError
            Where the cluster does not answer or has less than was asked for.
        """
        with connect(self.address, self.working_dir) as cluster:
            nodes = cluster.nodes()
            share = Share(self.cpus, choose_gpus(nodes) if self.gpus is None else self.gpus)
            pool = ClusterPool(cluster, share, count_workers(nodes, share, self.workers), code_state())
            log.info("workers", most=pool.workers, cpus_each=share.cpus, gpus_each=share.gpus, nodes=len(nodes))
            try:
                yield pool
            finally:
                pool.close()


def choose_gpus(nodes: Sequence[Node]) -> float:
    """Return the GPUs of each worker by default: 1 where the cluster has GPUs, else 0."""
    return float(any(node.gpus for node in nodes))


def count_workers(nodes: Sequence[Node], share: Share, asked: int | None) -> int:
    """Count the workers that a cluster has room for.

    Parameters
    ----------
    nodes : sequence of Node
        Machines of the cluster.
    share : Share
        What each worker takes; a worker is on one machine.
    asked : int or None
        Number of workers that was asked for; ``None`` for as many as there is room for.

    Returns
    -------
    int
        Number of workers.

    Raises
    ------
    ClusterError
        Where there is no room for them.
    """
    room = sum(_fit(node, share) for node in nodes)
    if room < (asked or 1):
        has = ", ".join(f"{node.cpus:g} cores and {node.gpus:g} GPUs" for node in nodes) or "no nodes"
        raise ClusterError(
            f"workers={asked or 1} of {share.cpus:g} cores and {share.gpus:g} GPUs each do not fit: the cluster has room for "
            f"{room} (its nodes have {has}). Ask for fewer --workers, --cpus-per-worker or --gpus-per-worker, or add nodes"
        )
    return asked or room


def _fit(node: Node, share: Share) -> int:
    by_cpus = math.floor(node.cpus / share.cpus + 1e-6)
    return min(by_cpus, math.floor(node.gpus / share.gpus + 1e-6)) if share.gpus else by_cpus
