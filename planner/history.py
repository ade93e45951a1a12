"""The agent's context as an append-only list of entries, newest last, so that every prompt extends the one before."""

from dataclasses import dataclass
from typing import Literal

EntryKind = Literal["task", "observation", "plan", "feedback"]


@dataclass(frozen=True)
class Entry:
    """One event of the episode: the task, an observation, the planner's answer, or feedback on an answer that did not parse."""

    kind: EntryKind
    text: str


@dataclass(frozen=True)
class History:
    """Immutable; ``append`` returns a longer history that shares its entries with this one."""

    entries: tuple[Entry, ...] = ()

    def append(self, kind: EntryKind, text: str) -> "History":
        """This history with one entry more. Raises ``ValueError`` for an empty text or a second task."""
        if not text.strip():
            raise ValueError(f"the text of a {kind} entry is empty: every entry of the history must say something")
        if (kind == "task") != (not self.entries):
            raise ValueError(f"entry {len(self.entries)} is of kind {kind!r}: the task comes first (as entry 0), and once")
        return History((*self.entries, Entry(kind, text)))

    @property
    def latest_observation(self) -> int:
        """Index of the newest observation; the length of the history where there is none."""
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index].kind == "observation":
                return index
        return len(self.entries)
