"""What a list of subgoals leaves behind, and which of them are gifts: reached without an act of the agent's.

It knows no random choice; ``envs.household.tasks`` draws the subgoals.
"""

from collections.abc import Sequence

from envs.household.house import House
from envs.household.subgoals import KINDS, Subgoal

_MOVING = frozenset(("bring", "next_to", "inside"))
"""Kinds of subgoals that move their thing."""


class _Foresight:
    """The house as subgoals leave it that are carried out one after the other, and nothing else."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.past: list[Subgoal] = []
        self.room_of: dict[str, str] = {}
        self.box_of: dict[str, str] = {}
        self.beside: set[frozenset[str]] = set()

    def holds(self, goal: Subgoal) -> bool:
        """Tell whether the subgoal is reached before anything is done for it."""
        if goal in self.past and goal.kind not in _MOVING:
            return True
        if not {goal.thing, goal.target} & self.room_of.keys():
            return KINDS[goal.kind].reached(self.house, goal)
        if goal.kind == "next_to":
            return frozenset((goal.thing, goal.target)) in self.beside
        if goal.kind == "inside":
            return self.box_of.get(goal.thing) == goal.target
        return goal.thing not in self.box_of and self.room_of[goal.thing] == goal.target

    def carry_out(self, goal: Subgoal) -> None:
        """Note what the subgoal changes."""
        self.past.append(goal)
        if goal.kind not in _MOVING:
            return
        self.box_of.pop(goal.thing, None)
        self.beside = {pair for pair in self.beside if goal.thing not in pair}
        self.room_of[goal.thing] = goal.target if goal.kind == "bring" else self._room(goal.target)
        if goal.kind == "inside":
            self.box_of[goal.thing] = goal.target
        if goal.kind == "next_to":
            self.beside.add(frozenset((goal.thing, goal.target)))

    def _room(self, name: str) -> str:
        """Return the name of the thing's room."""
        return self.room_of.get(name) or self.house.room_names[self.house.room_of_thing(name)]


def gifts(house: House, goals: Sequence[Subgoal]) -> list[Subgoal]:
    """Find the subgoals that the agent would be paid for without an act.

    A subgoal that is reached now is no gift if an earlier one undoes it: "bring red ball to kitchen" is work for an agent that has
    to bring the ball elsewhere first.

    Parameters
    ----------
    house
        The house as it is now.
    goals
        Subgoals that are not done, in the order in which they are due.

    Returns
    -------
    list of Subgoal
        Those that are reached when they become due, if each one before them is carried out and nothing else is.
    """
    ahead = _Foresight(house)
    found: list[Subgoal] = []
    for goal in goals:
        if ahead.holds(goal):
            found.append(goal)
        else:
            ahead.carry_out(goal)
    return found
