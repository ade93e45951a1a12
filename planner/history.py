"""The history of an episode: an append-only list of entries, newest last, so that each prompt extends the one before."""

from dataclasses import dataclass
from typing import Literal

from planner.surrogates import join_surrogates

EntryKind = Literal["task", "briefing", "observation", "plan", "outcome", "feedback"]
"""The task, what the agent is told before it sees anything, an observation, the planner's answer, the outcome of one line of a plan
with what is new since then, or feedback on an answer that could not be read or on plans that lead nowhere."""


@dataclass(frozen=True)
class Entry:
    """One event of the episode."""

    kind: EntryKind
    """What the entry is."""
    text: str
    """The text as the planner reads or wrote it."""


@dataclass(frozen=True)
class History:
    """The entries of an episode up to now. It is immutable: ``append`` returns a longer history."""

    entries: tuple[Entry, ...] = ()
    """The entries, oldest first; the task is the first."""

    def append(self, kind: EntryKind, text: str) -> "History":
        """Return a history with one entry more.

        Parameters
        ----------
        kind
            What the entry is.
        text
            Its text.

        Returns
        -------
        History
            The entries of this history, then the new one. Halves of characters (surrogates) in its text are joined or replaced.

        Raises
        ------
        ValueError
            For an empty text, a second task, and a history that does not begin with the task.
        """
        if not text.strip():
            raise ValueError(f"the text of a {kind} entry is empty: every entry of the history must say something")
        if (kind == "task") != (not self.entries):
            raise ValueError(f"entry {len(self.entries)} is of kind {kind!r}: the task comes first (as entry 0), and once")
        return History((*self.entries, Entry(kind, join_surrogates(text))))

    @property
    def latest_observation(self) -> int:
        """Index of the newest observation in ``entries``; their number where there is none."""
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index].kind == "observation":
                return index
        return len(self.entries)

    @property
    def current_plan(self) -> int:
        """Index of the newest plan before the latest observation in ``entries``; their number where there is none."""
        before = range(self.latest_observation - 1, -1, -1)
        return next((index for index in before if self.entries[index].kind == "plan"), len(self.entries))
