"""Processes that work together on one machine: they are started, watched and ended here, or by ``torchrun``.

The parent holds the store through which the processes find each other, on a port that the system chose. A process that fails ends
the others, and its error becomes the parent's.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not listed in __all__

TIMEOUT = timedelta(seconds=60)
"""Time after which a process gives up waiting for another one."""
_HOST = "127.0.0.1"
_GRACE_S = 5.0  # seconds that a process has to end
_SETTLE_S = 0.5  # seconds without news after a failure

Send = Callable[[Any], None]
"""Hands a picklable object to the parent."""


class ProcessFailedError(ValueError):
    """An error for a process that failed, raised in its parent after the others have been ended."""


@dataclass(frozen=True)
class World:
    """The processes that work together, as one of them sees them.

    Attributes
    ----------
    rank
        Number of this process, from 0.
    size
        Number of processes.
    backend
        ``nccl`` or ``gloo``.
    device
        Device of this process.
    """

    rank: int
    size: int
    backend: str
    device: torch.device

    @classmethod
    def of(cls, rank: int, size: int, backend: str, local_rank: int | None = None) -> "World":
        """Make a world in which a process uses the GPU of its number on its machine (``local_rank``), with gloo the CPU."""
        place = rank if local_rank is None else local_rank
        return cls(rank, size, backend, torch.device("cuda", place) if backend == "nccl" else torch.device("cpu"))


Work = Callable[..., None]
"""A function of a module's top level: ``work(world, send, *arguments)``."""


def torchrun_world(backend: str) -> World | None:
    """Return the world that ``torchrun`` started this process in, or ``None`` where it did not."""
    if not dist.is_torchelastic_launched():
        return None
    return World.of(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), backend, int(os.environ["LOCAL_RANK"]))


@contextmanager
def grouped(world: World, port: int | None = None) -> Iterator[World]:
    """Join the process group of ``world``, and leave it at the end, unless there was an error. Do nothing where one is joined.

    Parameters
    ----------
    world
        The world.
    port
        Port of the parent's store on this machine; ``None`` under ``torchrun``, which has a store of its own.
    """
    if dist.is_initialized():
        yield world
        return
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    store = None if port is None else TCPStore(_HOST, port, is_master=False, timeout=TIMEOUT)
    dist.init_process_group(world.backend, store=store, rank=world.rank, world_size=world.size, timeout=TIMEOUT)
    yield world
    dist.destroy_process_group()  # not after an error: it could wait for processes that are gone


def run_processes(
    work: Work,
    count: int,
    backend: str,
    arguments: tuple[Any, ...] = (),
    on_message: Callable[[Any], None] = lambda _: None,
    preload: Sequence[str] = (),
) -> None:
    """Run ``work`` in ``count`` new processes that have joined one process group, and wait for their end.

    Parameters
    ----------
    work
        The work, a function of a module's top level.
    count
        Number of processes.
    backend
        ``nccl``, one GPU per process, or ``gloo``.
    arguments
        Further arguments of ``work``; they must be picklable.
    on_message
        Called in this process with each object that a process sends.
    preload
        Modules that the main module imports, to start processes faster.

    Raises
    ------
    ProcessFailedError
        Where a process fails; the others have been ended by then.
    """
    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
    context = _context([__name__, work.__module__, *preload])
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(
            target=_enter,
            args=(work, rank, count, backend, store.port, pipes[rank][1], arguments),
            daemon=True,
            name=f"rank {rank}",
        )
        for rank in range(count)
    ]
    try:
        for process, (_, writer) in zip(processes, pipes, strict=True):
            process.start()
            writer.close()
        _Watcher(processes, [reader for reader, _ in pipes], on_message).watch()
    finally:
        _end(processes)
        for reader, _ in pipes:
            reader.close()


def _context(preload: Sequence[str]) -> ForkServerContext | SpawnContext:
    """Return what starts processes: on Linux a server that has imported the modules ``preload``, so that starting is quick.

    The server has used neither threads nor GPUs when it forks. It ends with this process.
    """
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


@dataclass(frozen=True)
class _Failure:
    """The end of a process that failed.

    Attributes
    ----------
    rank
        Number of the process.
    at
        Time of the failure on the machine's clock, in seconds; 0 where the process died without a word.
    text
        What happened.
    """

    rank: int
    at: float
    text: str


def _enter(work: Work, rank: int, size: int, backend: str, port: int, writer: Connection, arguments: tuple[Any, ...]) -> None:
    """Run ``work`` in a new process. Its error is sent to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the others
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
    torch.set_num_threads(1)
    try:
        with grouped(World.of(rank, size, backend), port) as world:
            work(world, writer.send, *arguments)
    except Exception as error:  # sent to the parent, which raises it
        first_line = next(iter(str(error).splitlines()), "")
        writer.send(_Failure(rank, monotonic(), f"failed: {type(error).__name__}: {first_line}"))
        writer.close()
        os._exit(1)  # no clean-up: it could wait for processes that are gone


class _Watcher:
    """Reads what the processes send until all have ended."""

    def __init__(self, processes: Sequence[BaseProcess], readers: Sequence[Connection], on_message: Callable[[Any], None]) -> None:
        self._processes, self._on_message = processes, on_message
        self._open = {reader: rank for rank, reader in enumerate(readers)}
        self._failures: list[_Failure] = []

    def watch(self) -> None:
        """Pass messages on. Raise ``ProcessFailedError`` when a process fails."""
        while self._open:
            self._read(None)
            if self._failures:
                while self._read(_SETTLE_S):  # a failure takes others with it: wait for what they say
                    pass
                first = min(self._failures, key=lambda failure: failure.at)
                size = len(self._processes)
                raise ProcessFailedError(f"process {first.rank} of {size} {first.text}; the others were ended")

    def _read(self, timeout: float | None) -> bool:
        """Read once from each pipe that has something to say. Return whether there was one."""
        ready = [reader for reader in self._open if reader in wait(list(self._open), timeout)]
        for reader in ready:
            rank = self._open[reader]
            try:
                message = reader.recv()
            except EOFError:
                del self._open[reader]
                self._ended(rank)
                continue
            if isinstance(message, _Failure):
                self._failures.append(message)
            else:
                self._on_message(message)
        return bool(ready)

    def _ended(self, rank: int) -> None:
        process = self._processes[rank]
        process.join(_GRACE_S)
        if process.exitcode and all(failure.rank != rank for failure in self._failures):
            self._failures.append(_Failure(rank, 0.0, f"died (exit code {process.exitcode}): see whether memory ran out"))


def _end(processes: Sequence[BaseProcess]) -> None:
    """End what still runs; nothing lingers."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.terminate()
    for process in started:
        process.join(_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()
