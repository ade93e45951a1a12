"""Executors: where the episodes of a run are played. ``LocalExecutor`` is this machine; ``benchmarks.cluster`` has another one."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from agents.pool import LocalPool, Pool
from benchmarks.backends.threads import threads_per_worker
from benchmarks.output.logs import configure_logging


class Executor(Protocol):
    """A place for the episodes of a run, not opened yet."""

    @property
    def threads(self) -> int | None:
        """CPU threads that a model may use where episodes are played; ``None`` leaves the choice to torch."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return the settings for ``config.json``. They may change when a run is continued."""
        ...

    def open(self) -> AbstractContextManager[Pool]:
        """Open the pool that plays the episodes; leaving the context ends its workers."""
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """An executor on this machine.

    Parameters
    ----------
    workers : int
        Number of processes that play episodes; 1 plays them in this process.
    envs : int
        Most episodes that each of them plays at once.
    """

    workers: int = 1
    envs: int = 1

    @property
    def threads(self) -> int | None:
        """The CPU threads of each worker (``Executor.threads``)."""
        return threads_per_worker(self.workers)

    def settings(self) -> dict[str, Any]:
        """Return the settings for ``config.json``."""
        return {"name": "local", "workers": self.workers} | ({} if self.envs == 1 else {"envs": self.envs})

    @contextmanager
    def open(self) -> Iterator[Pool]:
        """Make the pool. Raise ``ValueError`` for fewer than 1 worker or episode at once."""
        yield LocalPool(self.workers, configure_logging, self.envs)
