"""A simulator's own solution of an episode as an expert: it holds as long as the agent follows it."""

from collections.abc import Callable, Hashable, Sequence


class GoldPath:
    """The actions that solve an episode from its beginning, and how far the agent has come on them.

    A detour that leads back to a state on the path does no harm: the rest of the path applies again.

    Parameters
    ----------
    actions
        The actions, first to last.
    state
        The state of the world at the beginning. Equal states mean that an action has changed nothing.
    reveals
        Tells whether an action shows something new. A plan ends there, since an agent could not know what comes next.
    """

    def __init__(self, actions: Sequence[str], state: Hashable, reveals: Callable[[str], bool]) -> None:
        self.actions, self._reveals = tuple(actions), reveals
        self._reached = {state: 0}
        self._place: int | None = 0
        self._left_by = ""

    def take(self, action: str, state: Hashable) -> None:
        """Note an action of the agent and the state that it led to."""
        place = self._place
        if place is not None and place < len(self.actions) and action == self.actions[place]:
            self._place = self._reached[state] = place + 1
            return
        self._place = self._reached.get(state)
        if self._place is None and place is not None:
            self._left_by = action

    def plan(self) -> list[str]:
        """Return the next actions, up to the first one that shows something new; none at the end of the path.

        Raises
        ------
        ValueError
            Where the agent has left the path.
        """
        if self._place is None:
            raise ValueError(
                f"the gold path no longer applies: {self._left_by!r} has left it. It is the expert of episodes that it plays "
                "itself; where another planner acts, it can be asked only in states on the path"
            )
        rest = self.actions[self._place :]
        last = next((number for number, action in enumerate(rest) if self._reveals(action)), len(rest))
        return list(rest[: last + 1])
