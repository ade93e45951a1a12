"""What torchrun tells a process about its launch."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


class LaunchError(ValueError):
    """An error for a launch that this machine or this command cannot serve."""


class RankLostError(ValueError):
    """An error for a rank that is gone without a word."""


@dataclass(frozen=True)
class Launch:
    """A launch of several processes by torchrun, as one of them sees it.

    Attributes
    ----------
    rank
        Number of this process, from 0.
    size
        Number of processes, on all machines.
    local_rank
        Number of this process on its machine; the number of its GPU.
    local_size
        Number of processes on this machine.
    host, port
        Where the processes find each other.
    attempt
        How often torchrun has started the processes again.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int
    attempt: int = 0

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "Launch | None":
        """Read a launch from environment variables; ``None`` for a process that runs alone.

        Parameters
        ----------
        environment
            The variables; ``None`` for this process's own.
        """
        given = os.environ if environment is None else environment
        if any(name not in given for name in _NEEDED) or int(given["WORLD_SIZE"]) == 1:
            return None
        rank, size, local_rank, local_size, host, port = (given[name] for name in _NEEDED)
        attempt = int(given.get("TORCHELASTIC_RESTART_COUNT", 0))
        return cls(int(rank), int(size), int(local_rank), int(local_size), host, int(port), attempt)

    def check_devices(self, gpus: int) -> None:
        """Raise ``LaunchError`` where this machine has GPUs, ``gpus`` of them, but fewer than processes."""
        if 0 < gpus < self.local_size:
            raise LaunchError(
                f"{self.local_size} processes were started on a machine with {gpus} CUDA devices, and each needs its own: "
                f"torchrun --nproc-per-node {gpus}, or CUDA_VISIBLE_DEVICES= to run on the CPU"
            )


def tell_launcher(error: Exception) -> None:
    """Write why this process ends to where torchrun looks for it, so that its summary, which comes last, gives the reason."""
    file = os.environ.get(_ERROR_FILE)
    if file:
        reason = f"error: {error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        told = {"message": reason, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": told}), encoding="utf-8")
