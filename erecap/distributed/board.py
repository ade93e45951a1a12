"""A board on which the ranks of a launch write that they live, have failed, or are to leave.

It is kept by torchrun itself, so it can be read while the ranks' own connections are blocked or broken.
"""

from datetime import timedelta
from time import monotonic, sleep
from typing import Protocol

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list it

from erecap.distributed.launch import Launch

_ANSWER_S = 20.0  # a launcher that does not answer this long is gone


class KeyValues(Protocol):
    """The functions of torch's stores that a board needs."""

    def set(self, key: str, value: str) -> None:
        """Set a value."""
        ...

    def get(self, key: str) -> bytes:
        """Get the value of a key that exists."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Tell whether all keys exist."""
        ...

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Set a value where the present one is ``expected``, empty for none. Return the value after that."""
        ...


class Board:
    """The board of one rank. Each thread needs its own, because a store's connection answers one call at a time.

    Parameters
    ----------
    store
        The store that all ranks share.
    rank
        This rank.
    attempt
        Number of the launch's attempt, so that nothing is read that an earlier one has left.
    """

    def __init__(self, store: KeyValues, rank: int, attempt: int = 0) -> None:
        self._store, self._rank, self._root = store, rank, f"erecap/{attempt}"

    @classmethod
    def of(cls, launch: Launch) -> "Board":
        """Connect to the store of ``launch``. Raises torch's network errors where it is gone."""
        store = TCPStore(launch.host, launch.port, is_master=False, timeout=timedelta(seconds=_ANSWER_S), wait_for_workers=False)
        return cls(store, launch.rank, launch.attempt)

    def fail(self, reason: str) -> bool:
        """Write why the ranks have to stop. Return whether this was the first failure; later ones are not kept."""
        own = f"{self._rank} {reason}"
        return self._store.compare_set(self._key("failure"), "", own).decode() == own

    def failure(self) -> tuple[int, str] | None:
        """Return the first failure, as rank and reason; ``None`` where there is none."""
        if not self._store.check([self._key("failure")]):
            return None
        rank, _, reason = self._store.get(self._key("failure")).decode().partition(" ")
        return int(rank), reason

    def wait_for_failure(self, seconds: float) -> tuple[int, str] | None:
        """Return the first failure as soon as there is one, at the latest after ``seconds``."""
        end = monotonic() + seconds
        while (found := self.failure()) is None and monotonic() < end:
            sleep(0.05)
        return found

    def dismiss(self) -> None:
        """Write that all ranks are to leave, although nothing has failed."""
        self._store.set(self._key("dismissed"), "1")

    def dismissed(self) -> bool:
        """Tell whether the ranks are to leave."""
        return self._store.check([self._key("dismissed")])

    def beat(self, count: int) -> None:
        """Write that this rank lives; ``count`` must be another one each time."""
        self._store.set(self._key(f"beat/{self._rank}"), str(count))

    def last_beat(self, rank: int) -> str | None:
        """Return the last count of ``rank``; ``None`` where it has not written one."""
        key = self._key(f"beat/{rank}")
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"
