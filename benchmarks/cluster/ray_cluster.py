"""A Ray cluster behind ``Cluster``: every call of Ray is in this file and in ``ray_connection``."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks.cluster.protocol import ClusterError, Node, Share, WorkerLostError
from benchmarks.cluster.worker import EpisodeWorker

_CAUSE_CHARACTERS = 220


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster that this process is connected to (``Cluster``). Workers are Ray actors.

    Attributes
    ----------
    ray : module
        The package ``ray``, which is optional.
    folder : str or None
        Folder that the workers work in, if their machine has it.
    """

    ray: ModuleType
    folder: str | None = None

    def nodes(self) -> list[Node]:
        """Return the machines that are alive."""
        alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive]

    def start(self, share: Share) -> Any:
        """Start an actor. It is not restarted by Ray: the pool starts another one, on any node that has room."""
        actor = self.ray.remote(EpisodeWorker).options(num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, max_task_retries=0)
        return actor.remote(self.folder, share.gpus == 0)

    def submit(self, worker: Any, method: str, *arguments: Any) -> Any:
        """Call a method of an actor; the ticket is Ray's future."""
        return getattr(worker, method).remote(*arguments)

    def wait(self, tickets: Sequence[Any], timeout_s: float) -> list[Any]:
        """Wait for the next call that is over."""
        over: list[Any] = self.ray.wait(list(tickets), num_returns=1, timeout=timeout_s)[0]
        return over

    def result(self, ticket: Any) -> Any:
        """Return a result, or raise Ray's error as one of the pool's."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(ticket)
        except (errors.RuntimeEnvSetupError, errors.ActorUnschedulableError, errors.RayTaskError) as error:
            raise ClusterError(_explain(error)) from error
        except errors.RayActorError as error:
            if error.actor_init_failed:
                raise ClusterError(_explain(error)) from error
            raise WorkerLostError(_cause(error)) from error
        except errors.RayError as error:  # a node that is gone with the records of a finished episode, a full memory
            raise WorkerLostError(_cause(error)) from error

    def check(self) -> None:
        """Raise ``ClusterError`` where Ray on the node of this process is dead: it started the workers, and they end with it."""
        here = self.ray.get_runtime_context().get_node_id()
        if not any(node["Alive"] for node in self.ray.nodes() if node["NodeID"] == here):
            raise ClusterError(
                "the cluster is lost: Ray died on the node of this process. Finished episodes are kept; start the cluster again, "
                "and the same command continues the run"
            )

    def stop(self, worker: Any) -> None:
        """Kill an actor."""
        self.ray.kill(worker, no_restart=True)


def _explain(error: Exception) -> str:
    """Say why a worker cannot start. The last line of Ray's text is the error that the worker raised."""
    last = str(error).strip().splitlines()[-1].strip()
    return (
        f"a worker cannot start on the cluster: {last}. Install the same erecap and your own packages on all nodes, or name the "
        "folder that has them with --working-dir"
    )


def _cause(error: Exception) -> str:
    """Shorten Ray's text about a lost worker: the start of its last paragraph, without the general advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return textwrap.shorten(lines[-1].partition(" Some common causes")[0], _CAUSE_CHARACTERS, placeholder=" ...").rstrip(".")
