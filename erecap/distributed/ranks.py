"""The ranks of a launch: processes that run one model together, each with a part of every layer.

``joined`` makes this process one of them. While it is open, ``current`` returns the ranks, models are loaded divided among them
(``erecap.models.loading``), and a rank that fails or dies ends the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import sleep
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed
from transformers.utils import logging

from erecap.distributed.board import Board
from erecap.distributed.launch import Launch, LaunchError, RankLostError, tell_launcher
from erecap.distributed.watch import DISMISSED, FAILED, Watch

Value = TypeVar("Value")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Longest time that one rank may be behind another inside the model, as when one of them loads weights more slowly."""
_PATIENCE_S = 3.0  # for the failure that is behind an error of this rank, or for rank 0's own message
_LAST_WORD_S = 1.0  # torchrun ends all ranks with the first, so the one that has something to say goes first
_LOST = ("distbackenderror", "distnetworkerror", "gloo", "nccl", "connection closed", "connection reset")
"""Words by which the error of a collective operation with a rank that is gone is known. Gloo raises a plain ``RuntimeError``."""


class RankError(ValueError):
    """An error of one rank other than 0. The message names the rank."""


class Ranks:
    """The ranks of a launch, as one of them sees them.

    Parameters
    ----------
    launch
        The launch.
    device
        Device of this rank.
    board
        The board of this rank's main thread.
    watch
        The watch over the other ranks.
    """

    def __init__(self, launch: Launch, device: torch.device, board: Board, watch: Watch) -> None:
        self.launch, self.device, self.board, self._watch = launch, device, board, watch
        self.in_step = True
        # Prompts and decisions have a group of their own. It waits as long as rank 0 likes: a step of an environment may be slow.
        self._control = distributed.new_group(backend="gloo", timeout=timedelta(days=30))

    @property
    def rank(self) -> int:
        """Number of this rank."""
        return self.launch.rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.launch.size

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which steps environments, prints and writes files."""
        return self.rank == 0

    def share(self, value: Value) -> Value:
        """Return rank 0's ``value``. All ranks call this together; the value can be pickled."""
        held: list[Any] = [value if self.leads else None]
        distributed.broadcast_object_list(held, src=0, group=self._control)
        return held[0]  # type: ignore[no-any-return]

    @contextmanager
    def step(self, *harmless: type[Exception]) -> Iterator[None]:
        """Mark what all ranks do together. If it is cut short, as by Ctrl-C, this rank is out of step with the others.

        Parameters
        ----------
        harmless
            Errors that every rank raises at the same place, so that they stay in step.
        """
        self.in_step = False
        try:
            yield
        except harmless:
            self.in_step = True
            raise
        self.in_step = True

    def leave(self) -> None:
        """Leave together with all others. Where the ranks are out of step, tell the others to leave by themselves."""
        if self.in_step:
            distributed.barrier(group=self._control)
            self._watch.stop()
            distributed.destroy_process_group()
        else:
            self.board.dismiss()


_joined: list[Ranks] = []


def current() -> Ranks | None:
    """Return the ranks that this process has joined; ``None`` for a process that runs alone."""
    return _joined[-1] if _joined else None


def agreed(value: Value) -> Value:
    """Return rank 0's ``value``, so that all ranks decide alike; ``value`` itself in a process that runs alone."""
    ranks = current()
    return value if ranks is None else ranks.share(value)


@contextmanager
def joined(launch: Launch | None = None) -> Iterator[Ranks | None]:
    """Make this process one of the ranks that torchrun has started. Inside another ``joined`` it does nothing.

    An error that leaves the context ends all ranks. The rank that failed raises it, a rank other than 0 as ``RankError`` where it
    is a user's error. The others leave by ``SystemExit``.

    Parameters
    ----------
    launch
        The launch; ``None`` to read it from the environment.

    Yields
    ------
    Ranks or None
        The ranks; ``None`` where this process was started alone.

    Raises
    ------
    LaunchError
        For fewer GPUs than processes.
    RankLostError
        Where another rank has died.
    """
    launch = launch or Launch.read()
    if launch is None or current() is not None:
        yield current()
        return
    try:
        ranks = _join(launch)
    except LaunchError as error:
        end_alike(launch, error)
    _joined.append(ranks)
    try:
        yield ranks
    except KeyboardInterrupt:
        ranks.board.dismiss()
        raise
    except Exception as error:
        _give_up(ranks, error)
    else:
        ranks.leave()
    finally:
        _joined.remove(ranks)


def _join(launch: Launch) -> Ranks:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    launch.check_devices(gpus)
    device = torch.device("cuda", launch.local_rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    if launch.rank:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # rank 0 says it
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    distributed.init_process_group("nccl" if gpus else "gloo", timeout=COLLECTIVE_TIMEOUT, device_id=device if gpus else None)
    others = range(1, launch.size) if launch.rank == 0 else (0,)
    watch = Watch(Board.of(launch), others)
    ranks = Ranks(launch, device, Board.of(launch), watch)
    watch.start()
    return ranks


def end_alike(launch: Launch, error: Exception) -> NoReturn:
    """End this process after an error that all processes of a launch find before they have joined: rank 0 raises it."""
    if launch.rank:
        sleep(_LAST_WORD_S)
        raise SystemExit(FAILED) from error
    tell_launcher(error)
    raise error


def _code_of_others(ranks: Ranks, error: Exception, lost: bool) -> int | None:
    """Return the exit code with which to follow the others; ``None`` where this rank is the first to end, or the board is gone."""
    try:
        if lost or (isinstance(error, ValueError) and not ranks.leads):
            ranks.board.wait_for_failure(_PATIENCE_S)
        if ranks.board.dismissed():
            return DISMISSED
        if ranks.board.fail(str(error)):
            return None
    except distributed.DistError:
        return None
    sleep(_LAST_WORD_S)
    return FAILED


def _give_up(ranks: Ranks, error: Exception) -> NoReturn:
    """End this rank after ``error``: with its message where it is the first, else in silence."""
    lost = isinstance(error, RuntimeError) and any(word in f"{type(error).__name__} {error}".lower() for word in _LOST)
    code = _code_of_others(ranks, error, lost)
    if code is not None:
        raise SystemExit(code) from error
    if lost:
        told: Exception = RankLostError(
            f"rank {ranks.rank} has lost the connection to another rank ({str(error).splitlines()[0]}): a process has died; what "
            "torchrun prints below says which, and the end of that process's own output says why"
        )
    elif isinstance(error, ValueError) and not ranks.leads:
        told = RankError(f"rank {ranks.rank}: {error}")
    else:
        tell_launcher(error)
        raise error
    tell_launcher(told)
    raise told from error
