"""Commands under ``torchrun``: rank 0 runs the command, the others run their part of its models."""

import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import typer

from benchmarks.backends.makers import made_by
from benchmarks.backends.registry import BackendFactory
from benchmarks.commands.executors import LOCAL

Options = ParamSpec("Options")

ON_RANKS = ("run", "compare", "profile")
"""The subcommands that several processes may run together."""


def launched() -> bool:
    """Tell whether torchrun has started this process with others. Needs no torch."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_command(name: str | None) -> None:
    """Refuse a subcommand that several processes cannot run together.

    Raises
    ------
    ValueError
        On rank 0.
    typer.Exit
        On the other ranks, which have nothing to add.
    """
    if not launched() or name in ON_RANKS:
        return
    if os.environ["RANK"] != "0":
        raise typer.Exit(2)
    raise ValueError(f"`erecap {name}` runs in one process: start it without torchrun, which is for {', '.join(ON_RANKS)}")


def on_ranks(command: Callable[Options, None]) -> Callable[Options, None]:
    """Let a command whose backends are made by ``backend_maker`` also run under torchrun."""

    @wraps(command)
    def run(*args: Options.args, **options: Options.kwargs) -> None:
        if not launched():
            return command(*args, **options)
        return _run_on_ranks(lambda: command(*args, **options), options.get("executor"), options.get("workers"))

    return run


def _run_on_ranks(command: Callable[[], None], executor: object, workers: object) -> None:
    from benchmarks.backends.ranks import Leader, follow  # imports torch
    from erecap.distributed.ranks import joined

    code = 0
    with joined() as ranks:
        if ranks is None:
            command()
        elif ranks.leads:
            _refuse_workers(executor, workers)
            code = _lead(Leader(ranks, BackendFactory()), command)
        else:
            follow(ranks, BackendFactory())
    raise typer.Exit(code)


def _refuse_workers(executor: object, workers: object) -> None:
    """Raise ``ValueError`` for workers of another kind beside the ranks of a launch."""
    rule = "under torchrun: its processes share one model, and rank 0 plays: leave it out"
    if executor != LOCAL:
        raise ValueError(f"executor={executor!r} {rule}")
    if workers not in (None, 1):
        raise ValueError(f"workers={workers} {rule}")


def _lead(leader: Any, command: Callable[[], None]) -> int:
    """Run ``command`` on rank 0 and then let the others leave. Return its exit code."""
    signal.signal(signal.SIGINT, _interrupt_once)
    code = 0
    with made_by(leader):
        try:
            command()
        except typer.Exit as end:  # such as 130 after Ctrl-C, when the report has been written
            code = end.exit_code
    leader.end()
    return code


def _interrupt_once(number: int, frame: object) -> None:
    """Interrupt this process, and ignore further signals: torchrun passes Ctrl-C on, so it comes twice."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
