"""Bandwidth and latency between devices, and of all-reduces: NCCL between GPUs, gloo between processes on the CPU.

One GPU alone has nothing to talk to: then copies within it, and to and from the host, are measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from erecap.distributed.processes import World, grouped, run_processes, torchrun_world
from erecap.profiling.comm_work import ITEM_BYTES, CommPlan, measure_world, quartiles_us, timed
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.units import format_bytes

CPU_SIZES = (4, 1 << 10, 64 << 10, 1 << 20, 16 << 20)
GPU_SIZES = (*CPU_SIZES, 256 << 20)
"""Default sizes of messages in bytes."""
LONE_GPU = "one GPU: there is no other device to talk to; copies within it and to the host are measured"


@dataclass(frozen=True)
class Crew:
    """Who takes part in the communication test.

    Attributes
    ----------
    backend
        ``nccl``, ``gloo``, or ``none`` for one GPU alone.
    processes
        Number of processes, one per GPU with ``nccl``.
    world
        The world of ``torchrun``; ``None`` where the processes are still to be started.
    """

    backend: str
    processes: int
    world: World | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes the result: the first one does."""
        return self.world is None or self.world.rank == 0


def choose_crew(device: torch.device, processes: int | None) -> Crew:
    """Choose who takes part.

    Parameters
    ----------
    device
        ``cuda`` for GPUs, ``cpu`` for processes on the CPU.
    processes
        Number of processes; ``None`` for one per GPU, or two on the CPU.

    Raises
    ------
    ValueError
        For one process on the CPU, more processes than GPUs, or a number that is not ``torchrun``'s.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    world = torchrun_world("nccl" if gpus else "gloo")
    if world is not None:
        if processes not in (None, world.size):
            raise ValueError(f"processes={processes}, and torchrun started {world.size}: leave --processes out")
        return _checked(Crew(world.backend, world.size, world), gpus)
    if gpus == 1 and processes in (None, 1):
        return Crew("none", 1)
    return _checked(Crew("nccl", processes or gpus) if gpus else Crew("gloo", processes or 2), gpus)


def _checked(crew: Crew, gpus: int) -> Crew:
    if crew.processes < 2:
        raise ValueError(f"processes={crew.processes}: communication takes at least 2, give --processes 2")
    if crew.backend == "nccl" and crew.processes > gpus and crew.world is None:
        raise ValueError(
            f"processes={crew.processes}, and there are {gpus} GPUs: ask for no more than that, or use --device cpu for processes "
            "without GPUs"
        )
    return crew


def profile_comm(crew: Crew, plan: CommPlan, device: torch.device, file: ResultFile, preload: Sequence[str] = ()) -> None:
    """Measure what ``crew`` can, and add one point per case to ``file``: the rows of ``measure_world``, or of ``copy_rows``.

    ``preload`` names modules that the main module imports, to start processes faster.

    Raises
    ------
    ProcessFailedError
        Where a process fails; what was measured until then is in ``file``.
    """
    if crew.backend == "none":
        file.note(note=LONE_GPU)
        for row in copy_rows(device, plan):
            file.add(row)
    elif crew.world is not None:
        with grouped(crew.world) as world:
            measure_world(world, file.add, plan)
    else:
        run_processes(measure_world, crew.processes, crew.backend, (plan,), file.add, preload)


def copy_rows(device: torch.device, plan: CommPlan) -> Iterator[Row]:
    """Measure copies within ``device``, from the host to it and back, by size.

    A row holds ``test`` (``copy``, ``host to device`` or ``device to host``), ``size_bytes``, ``rounds``, the time
    (``quartiles_us``) and ``bandwidth_bytes_per_s``: bytes copied per second, each counted once. The host's memory is pinned.
    """
    for size in plan.sizes:
        try:
            there, other = (torch.zeros(size // ITEM_BYTES, device=device) for _ in range(2))
            here = torch.zeros(size // ITEM_BYTES, pin_memory=device.type == "cuda")
        except RuntimeError:  # torch.OutOfMemoryError is one
            yield {"test": "copy", "size_bytes": size, "status": "out of memory"}
            continue
        for name, target, source in (("copy", other, there), ("host to device", there, here), ("device to host", here, there)):
            times = quartiles_us(timed(device, plan.rounds, _copy(target, source)))
            rate = size / times["median_time_us"] * 1e6
            yield {
                "test": name, "size_bytes": size, "status": "ok", "rounds": plan.rounds, **times, "bandwidth_bytes_per_s": rate,
            }  # fmt: skip


def _copy(target: Tensor, source: Tensor) -> Callable[[], object]:
    return lambda: target.copy_(source, non_blocking=True)


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    short = {"test": _name(point), "size": format_bytes(point["size_bytes"])}
    if "median_time_us" not in point:
        return short | {"status": point["status"]}
    bandwidth = point["algbw_bytes_per_s" if point["test"] == "all_reduce" else "bandwidth_bytes_per_s"]
    row = short | {
        "time us": f"{point['median_time_us']:.1f}",
        "quartiles": f"{point['p25_time_us']:.1f}-{point['p75_time_us']:.1f}",
        "GB/s": f"{bandwidth / 1e9:.3f}",
    }
    if "busbw_bytes_per_s" in point:
        row["busbw GB/s"] = f"{point['busbw_bytes_per_s'] / 1e9:.3f}"
    return row | {"status": point["status"]}


def _name(point: Row) -> str:
    if point["test"] == "send":
        return f"{point['source']} -> {point['target']}"
    return f"all-reduce of {point['processes']}" if point["test"] == "all_reduce" else str(point["test"])


def pair_matrix(points: Sequence[Mapping[str, Any]], size_bytes: int, field: str) -> list[list[float | None]]:
    """Arrange ``field`` of the sends of ``size_bytes`` as a square: rows send, columns receive; ``None`` for no figure."""
    sends = [point for point in points if point["test"] == "send" and point["size_bytes"] == size_bytes]
    count = 1 + max((point["source"] for point in sends), default=-1)
    found = {(point["source"], point["target"]): point.get(field) for point in sends}
    return [[found.get((source, target)) for target in range(count)] for source in range(count)]


def matrix_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the bandwidth matrix at the largest size and the latency matrix at the smallest, one row per sender."""
    sizes = [point["size_bytes"] for point in points if point["test"] == "send" and "median_time_us" in point]
    if not sizes:
        return []
    tables: tuple[tuple[int, str, str, float], ...] = (
        (max(sizes), "bandwidth_bytes_per_s", "GB/s", 1e9),
        (min(sizes), "median_time_us", "us", 1.0),
    )
    matrices = [(size, unit, scale, pair_matrix(points, size, field)) for size, field, unit, scale in tables]
    return [
        {"from": source, "what": f"{format_bytes(size)}, {unit}"}
        | {f"to {target}": "-" if value is None else f"{value / scale:.2f}" for target, value in enumerate(row)}
        for size, unit, scale, matrix in matrices
        for source, row in enumerate(matrix)
    ]
