"""Where episodes are played: the options that ``erecap run``, ``compare`` and ``ablate`` share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cluster.executor import RayExecutor
from benchmarks.runs.executors import Executor, LocalExecutor

LOCAL = "local"
_PANEL = "Where episodes are played"

Name = Annotated[str, typer.Option("--executor", help="`local` for this machine, `ray` for a Ray cluster.", rich_help_panel=_PANEL)]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that play episodes; by default 1, with ray as many as the cluster has room for.", rich_help_panel=_PANEL
    ),
]
Envs = Annotated[
    int,
    typer.Option(
        help="Episodes that each process plays at once; `baseline` and `erecap` then answer their prompts in one batch.",
        rich_help_panel=_PANEL,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster: HOST:PORT, ray://HOST:PORT, `auto` for the one that runs here, `local` for a new one on this machine. "
        "By default $RAY_ADDRESS, else `local`.",
        rich_help_panel=_PANEL,
    ),
]
Cpus = Annotated[float | None, typer.Option(help="CPU cores of each Ray worker; 1 by default.", rich_help_panel=_PANEL)]
Gpus = Annotated[
    float | None,
    typer.Option(
        help="GPUs of each Ray worker; 0.5 puts two on one GPU. By default 1 where the cluster has GPUs.", rich_help_panel=_PANEL
    ),
]
WorkingDir = Annotated[
    Path | None,
    typer.Option(help="Folder that Ray copies to its nodes: your own packages, models and files.", rich_help_panel=_PANEL),
]


@dataclass(frozen=True)
class RayOptions:
    """The options that only Ray understands, as given; ``None`` where one was left out."""

    address: str | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None
    working_dir: Path | None = None


def make(name: str, workers: int | None, ray: RayOptions, envs: int = 1) -> Executor:
    """Make the executor of that name.

    Parameters
    ----------
    name
        ``local`` or ``ray``.
    workers
        Number of processes; ``None`` leaves it to the executor.
    ray
        Options of a Ray cluster.
    envs
        Most episodes that a process plays at once.

    Raises
    ------
    ValueError
        For an unknown name, for options of Ray with another executor, and for values that are out of range.
    """
    if name not in EXECUTORS:
        raise ValueError(f"executor {name!r} is unknown: choose from {', '.join(EXECUTORS)}")
    return EXECUTORS[name](workers, ray, envs)


def _local(workers: int | None, ray: RayOptions, envs: int) -> Executor:
    given = [f"--{option.replace('_', '-')}" for option, value in vars(ray).items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for Ray: add --executor ray, or leave it out")
    return LocalExecutor(1 if workers is None else workers, envs)


def _ray(workers: int | None, ray: RayOptions, envs: int) -> Executor:
    if envs != 1:
        raise ValueError(f"--envs {envs} is for this machine: on a cluster each worker plays one episode at a time, leave it out")
    cpus = 1.0 if ray.cpus_per_worker is None else ray.cpus_per_worker
    return RayExecutor(ray.address, workers, cpus, ray.gpus_per_worker, ray.working_dir)


EXECUTORS: dict[str, Callable[[int | None, RayOptions, int], Executor]] = {LOCAL: _local, "ray": _ray}
"""Makers of executors by name."""
