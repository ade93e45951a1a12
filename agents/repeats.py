"""Going round in circles: which plans were tried in which state of the world, and how often.

A failure by chance deserves a second try. A plan that has been tried twice in one state is forbidden there.
"""

from collections import Counter
from collections.abc import Hashable

LIMIT = 2
"""How often a plan may be tried in the same state."""
_LISTED = 3


class Repeats:
    """The plans of one episode by the state of the world in which they were made."""

    def __init__(self) -> None:
        self._tried: dict[Hashable, Counter[str]] = {}

    def note(self, state: Hashable, beginning: str) -> None:
        """Remember that a plan was tried in the state: its lines up to the last one that was carried out or could not be read."""
        if beginning.strip():
            self._tried.setdefault(state, Counter())[beginning] += 1

    def forbidden(self, state: Hashable) -> tuple[str, ...]:
        """Return the beginnings of plans that have been tried too often in this state."""
        return tuple(text for text, times in self._tried.get(state, Counter()).items() if times >= LIMIT)

    def advice(self, state: Hashable) -> str | None:
        """Return what to tell the planner about the plans tried in this state, the newest last; ``None`` where there are none."""
        tried = list(self._tried.get(state, Counter()).items())[-_LISTED:]
        if not tried:
            return None
        listed = [f"{'; '.join(text.splitlines())} ({'twice' if times >= LIMIT else 'once'})" for text, times in tried]
        return f"Nothing has changed since this was tried: {', '.join(listed)}."
