"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is finished is kept and summed up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STOPPING = (signal.SIGTERM, signal.SIGHUP)


class StopSignal(KeyboardInterrupt):
    """The interruption of a command by a signal that asks it to end.

    Parameters
    ----------
    number : int
        Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(interruption: KeyboardInterrupt) -> int:
    """Return the exit code of a command that was interrupted: 128 and the number of the signal."""
    return 128 + (interruption.number if isinstance(interruption, StopSignal) else signal.SIGINT)


def as_signalled(code: str | int | None, received: list[int]) -> str | int | None:
    """Return an exit code, or that of the signal ``received`` where a library has taken its ``StopSignal`` for Ctrl-C."""
    return 128 + received[0] if received and code == 128 + signal.SIGINT else code


@contextmanager
def stop_on_signals(wanted: bool = True) -> Iterator[list[int]]:
    """Raise ``StopSignal`` in the main thread at the first SIGTERM or SIGHUP, and ignore further ones while the command ends.

    The list that it yields gets the number of that signal. Nothing is changed unless ``wanted``.

    A signal that the process was told to ignore (``nohup``) or handles already stays as it is. Outside the main thread, where
    Python allows no handlers, nothing is changed.
    """
    received: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield received
        return
    mine = [number for number in _STOPPING if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, frame: object) -> None:
        for each in mine:
            signal.signal(each, signal.SIG_IGN)
        received.append(number)
        raise StopSignal(number)

    for number in mine:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
