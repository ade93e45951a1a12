"""Processes on this machine that run a function together, as torchrun starts them. They are forked, so they import nothing anew."""

import contextlib
import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore
from transformers.utils.logging import disable_progress_bar

LIMIT_S = 100.0


@dataclass(frozen=True)
class Ended:
    """How one process has ended: what the function returned, its exit code, what it wrote."""

    value: Any
    code: int
    out: str
    err: str


def run_on_ranks(work: Callable[..., Any], *args: Any, folder: Path, size: int = 2) -> list[Ended]:
    """Run ``work(*args)`` in ``size`` processes, which can find each other, and wait until all have ended."""
    context = multiprocessing.get_context("fork")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent keeps one
    made = [(rank, size, store.port, folder, work, args) for rank in range(size)]
    processes = [context.Process(target=_child, args=given, daemon=True) for given in made]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT_S)
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
    assert not late, f"{len(late)} processes have not ended within {LIMIT_S} s: {[_written(folder, rank) for rank in range(size)]}"
    return [Ended(*_written(folder, rank, process.exitcode)) for rank, process in enumerate(processes)]


def _written(folder: Path, rank: int, code: int = 0) -> tuple[Any, int, str, str]:
    out, err, value = (folder / f"{rank}.{end}" for end in ("out", "err", "value"))
    return pickle.loads(value.read_bytes()) if value.exists() else None, code, out.read_text(), err.read_text()


def _child(rank: int, size: int, port: int, folder: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(1)
    disable_progress_bar()
    out, err = ((folder / f"{rank}.{end}").open("w") for end in ("out", "err"))
    with out, err, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _called(work, args, folder / f"{rank}.value")
    os._exit(code)


def _called(work: Callable[..., Any], args: tuple[Any, ...], path: Path) -> int:
    try:
        path.write_bytes(pickle.dumps(work(*args)))
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        return 1
    return 0
