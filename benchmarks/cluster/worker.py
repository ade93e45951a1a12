"""The worker of a cluster: plays episodes in a process of its own, and keeps the backend that it has loaded."""

import os
import pickle
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.job import EpisodeJob
from agents.workers import Failed, Play, call_safely
from benchmarks.output.code_state import code_state
from benchmarks.output.logs import configure_logging


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker says of itself.

    Attributes
    ----------
    host : str
        Name of its machine.
    code : dict of str to str
        The code that it runs (``benchmarks.output.code_state.code_state``).
    """

    host: str
    code: dict[str, str]


class EpisodeWorker:
    """A worker of a cluster.

    Functions come pickled, so that an error in reading them is reported as any other, and so that a worker that gets the same one
    again keeps what it has loaded.

    Parameters
    ----------
    folder : str or None
        Folder to work in, for relative paths in backends; ``None`` stays where the cluster started the worker. One that this
        machine does not have is passed over.
    hide_gpus : bool
        Whether to hide the machine's GPUs from this process. Ray leaves all of them visible to a worker that takes none.
    """

    def __init__(self, folder: str | None = None, hide_gpus: bool = False) -> None:
        if hide_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._pickled = b""
        self._play: Play | None = None
        configure_logging()
        if folder is not None and Path(folder).is_dir():
            os.chdir(folder)

    def describe(self) -> WorkerFacts:
        """Say where this worker runs, and which code."""
        return WorkerFacts(platform.node(), code_state())

    def play(self, pickled: bytes, job: EpisodeJob) -> list[str] | Failed:
        """Play one episode.

        Parameters
        ----------
        pickled : bytes
            The pickled ``Play``.
        job : EpisodeJob
            The episode.

        Returns
        -------
        list of str or Failed
            The episode's records as JSON lines, or the exception.
        """
        return call_safely(self._play_one, pickled, job)

    def call(self, pickled: bytes) -> Any:
        """Call a pickled function without arguments. Return its result, or its exception as ``Failed``."""
        return call_safely(lambda: pickle.loads(pickled)())

    def _play_one(self, pickled: bytes, job: EpisodeJob) -> list[str]:
        if self._play is None or pickled != self._pickled:
            self._play = None  # frees the memory of the old model before the next one is loaded
            self._pickled, self._play = pickled, pickle.loads(pickled)
        return self._play(job)
