"""A watch over the ranks: it ends this process when another rank has failed, has died, or has dismissed all.

A collective operation waits for every rank. Where one is gone, some libraries notice at once and some wait for many minutes, so
the watch does not rely on them. It works in a thread of its own and reads the board.
"""

import os
import sys
from collections.abc import Callable, Sequence
from threading import Event, Thread
from time import monotonic

from torch.distributed import DistError

from erecap.distributed.board import Board
from erecap.distributed.launch import RankLostError, tell_launcher

BEAT_S = 2.0
"""Seconds between two signs of life."""
DEAD_S = 40.0
"""A rank without a sign of life for this many seconds is taken for dead."""
GRACE_S = 5.0
"""Seconds that the main thread has to leave by itself, with its own message, before the process is ended."""
FAILED, DISMISSED = 1, 130
"""Exit codes of a process that another rank's failure or dismissal has ended."""


class Watch:
    """A watch of one rank over others. Rank 0 watches all others, and they watch rank 0.

    Parameters
    ----------
    board
        The board, on a connection of its own.
    ranks
        The ranks to watch.
    clock
        Seconds since some moment.
    leave
        Ends the process with an exit code, whatever its main thread does.
    say
        Writes a line for the user.
    """

    def __init__(
        self,
        board: Board,
        ranks: Sequence[int],
        clock: Callable[[], float] = monotonic,
        leave: Callable[[int], None] = os._exit,
        say: Callable[[str], object] = lambda line: sys.stderr.write(line),
    ) -> None:
        self._board, self._clock, self._leave, self._say = board, clock, leave, say
        self._seen: dict[int, tuple[str | None, float]] = {rank: (None, clock()) for rank in ranks}
        self._beats, self._done = 0, Event()
        self._thread = Thread(target=self._run, name="watch over ranks", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the watch. The process goes on."""
        self._done.set()

    def look(self) -> int | None:
        """Give a sign of life and look at the board once. Return the exit code with which to leave; ``None`` to stay."""
        try:
            self._beats += 1
            self._board.beat(self._beats)
            if self._board.failure() is not None:
                return FAILED
            if self._board.dismissed():
                return DISMISSED
            return self._look_for_the_dead()
        except DistError as error:
            self._say(f"error: the launcher does not answer any more ({error}): this process ends\n")
            return FAILED

    def _look_for_the_dead(self) -> int | None:
        now = self._clock()
        for rank, (before, since) in self._seen.items():
            beat = self._board.last_beat(rank)
            if beat != before:
                self._seen[rank] = (beat, now)
            elif now - since > DEAD_S:
                error = RankLostError(f"rank {rank} has given no sign of life for {DEAD_S:.0f} seconds: all ranks end")
                if self._board.fail(str(error)):
                    self._say(f"error: {error}\n")
                    tell_launcher(error)
                return FAILED
        return None

    def _run(self) -> None:
        while not self._done.wait(BEAT_S):
            code = self.look()
            if code is not None:
                if not self._done.wait(GRACE_S):
                    self._leave(code)
                return
