"""A wall-clock limit for something that arrives piece by piece, however it is held up."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def within(limit_s: float, arrive: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Pass on what arrives, until the limit.

    A thread waits for the pieces, so that the limit holds while the other side sends what is no piece, or nothing. The thread is
    left behind at the limit; it ends with its wait, or with this process.

    Parameters
    ----------
    limit_s : float
        Seconds from now until the last piece.
    arrive : callable
        Begins, and returns the pieces.

    Raises
    ------
    TimeoutError
        At the limit.
    """
    end = time.monotonic() + limit_s
    pieces: queue.SimpleQueue[tuple[T | None, BaseException | None, bool]] = queue.SimpleQueue()
    left = threading.Event()

    def wait() -> None:
        try:
            for piece in arrive():
                pieces.put((piece, None, False))
                if left.is_set():
                    return
            pieces.put((None, None, True))
        except Exception as error:  # passed on to the caller's thread, where it belongs
            pieces.put((None, error, True))

    threading.Thread(target=wait, daemon=True, name="answer").start()
    try:
        while True:
            piece, error, over = _next(pieces, end, limit_s)
            if error is not None:
                raise error
            if over:
                return
            yield piece  # type: ignore[misc]  # a piece wherever it is not over
    finally:
        left.set()


def _next(
    pieces: "queue.SimpleQueue[tuple[T | None, BaseException | None, bool]]", end: float, limit_s: float
) -> tuple[T | None, BaseException | None, bool]:
    try:
        return pieces.get(timeout=max(0.0, end - time.monotonic()))
    except queue.Empty:
        raise TimeoutError(f"the answer was not complete after {limit_s:g} s") from None
