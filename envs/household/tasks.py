"""The task of a household: a list of subgoals, each possible where the ones before it have left the things."""

import numpy as np

from envs.household.foresight import gifts
from envs.household.house import House
from envs.household.subgoals import Subgoal

ATTEMPTS = 50
"""How many subgoals are drawn at most for each one that is wanted."""


class TaskWriter:
    """The writer of a task; it keeps track of where each subgoal leaves the things.

    Parameters
    ----------
    house
        The house as it is now.
    rng
        Source of all random choices.
    """

    def __init__(self, house: House, rng: np.random.Generator) -> None:
        self.house, self.rng = house, rng
        self.room_of = {name: house.room_of_thing(name) for name in house.movable_names()}
        self.full = {name for name in house.box_names() if house.things[name].contains is not None}
        self.in_box = {name for name in house.movable_names() if house.container_of(house.things[name]) is not None}
        self.touched: set[str] = set()

    def write(self, kinds: tuple[str, ...], count: int) -> list[Subgoal]:
        """Write different subgoals.

        Parameters
        ----------
        kinds
            Kinds to draw from, by their names in ``KINDS``; a kind named twice is drawn twice as often.
        count
            Number of subgoals wanted.

        Returns
        -------
        list of Subgoal
            The subgoals in the order in which they are due; fewer than ``count`` where the house offers no more.
        """
        goals: list[Subgoal] = []
        for _ in range(ATTEMPTS * count):
            if len(goals) == count:
                break
            goal = self.one_more(kinds)
            if goal is not None and goal not in goals:
                goals.append(goal)
        return goals

    def follow(self, goals: list[Subgoal]) -> None:
        """Note where these subgoals leave the things, as if this writer had drawn them."""
        for goal in goals:
            if goal.thing not in self.room_of:
                self.touched.add(goal.thing)
            elif goal.kind == "bring":
                self._leave(goal.thing, self.house.room_names.index(goal.target))
            elif goal.kind == "next_to":
                self._leave_beside(goal.thing, goal.target)
            else:
                self._leave_inside(goal.thing, goal.target)

    def allows(self, goals: list[Subgoal]) -> bool:
        """Tell whether no subgoal wants a thing next to one that is in a box by then; note where the subgoals leave the things."""
        for goal in goals:
            if goal.kind == "next_to" and goal.target in self.in_box:
                return False
            self.follow([goal])
        return True

    def one_more(self, kinds: tuple[str, ...]) -> Subgoal | None:
        """Draw one subgoal, or ``None`` where the house offers none of the kind that was drawn."""
        return self._one(kinds[int(self.rng.integers(len(kinds)))])

    def _one(self, kind: str) -> Subgoal | None:
        writer = getattr(self, f"_{kind}")
        goal: Subgoal | None = writer()
        return goal

    def _pick(self, names: list[str]) -> str | None:
        return names[int(self.rng.integers(len(names)))] if names else None

    def _bring(self) -> Subgoal | None:
        thing = self._pick(self._free_things())
        if thing is None:
            return None
        rooms = [name for i, name in enumerate(self.house.room_names) if i != self.room_of[thing]]
        room = rooms[int(self.rng.integers(len(rooms)))]
        self._leave(thing, self.house.room_names.index(room))
        return Subgoal("bring", thing, room)

    def _next_to(self) -> Subgoal | None:
        thing = self._pick(self._free_things())
        others = [n for n in (*self.room_of, *self.house.box_names()) if n != thing and n not in self.in_box]
        target = self._pick(others)
        if thing is None or target is None:
            return None
        self._leave_beside(thing, target)
        return Subgoal("next_to", thing, target)

    def _inside(self) -> Subgoal | None:
        thing = self._pick(self._free_things())
        box = self._pick([name for name in self.house.box_names() if name not in self.full])
        if thing is None or box is None:
            return None
        self._leave_inside(thing, box)
        return Subgoal("inside", thing, box)

    def _open(self) -> Subgoal | None:
        door = self._pick([n for n, d in self.house.door_items() if not d.is_open and n not in self.touched])
        return None if door is None else self._touch("open", door)

    def _unlock(self) -> Subgoal | None:
        door = self._pick([n for n, d in self.house.door_items() if d.is_locked and n not in self.touched])
        return None if door is None else self._touch("unlock", door)

    def _inspect(self) -> Subgoal | None:
        room = self._pick([name for name in self.house.room_names if name not in self.touched])
        return None if room is None else self._touch("inspect", room)

    def _touch(self, kind: str, name: str) -> Subgoal:
        self.touched.add(name)
        return Subgoal(kind, name)

    def _free_things(self) -> list[str]:
        """Return what may be carried elsewhere: unused things if there are any, never the key of a locked door."""
        locks = {f"{door.color} key" for _, door in self.house.door_items() if door.is_locked}
        names = [name for name in self.room_of if name not in locks]
        return [name for name in names if name not in self.touched] or names

    def _leave(self, thing: str, room: int) -> None:
        """Note where this subgoal leaves the thing."""
        box = self.house.container_of(self.house.things[thing])
        if thing in self.in_box and box is not None:
            self.full.discard(f"{box.color} box")
        self.in_box.discard(thing)
        self.room_of[thing] = room
        self.touched.add(thing)

    def _leave_beside(self, thing: str, target: str) -> None:
        self._leave(thing, self.room_of.get(target, self.house.room_of_thing(target)))

    def _leave_inside(self, thing: str, box: str) -> None:
        self._leave(thing, self.house.room_of_thing(box))
        self.full.add(box)
        self.in_box.add(thing)


def tour(house: House, count: int) -> list[Subgoal]:
    """Return subgoals to inspect up to ``count`` rooms, in the order in which a walk from the agent's room comes to them.

    A room that has been in view as a whole needs no visit and is left out.
    """
    rooms = [room for room in house.rooms_by_walk() if not house.is_inspected(room)]
    return [Subgoal("inspect", house.room_names[room]) for room in rooms[:count]]


def without_gifts(
    house: House, goals: list[Subgoal], count: int, kinds: tuple[str, ...], rng: np.random.Generator
) -> list[Subgoal]:
    """Draw again the subgoals that the agent would be paid for without an act.

    Parameters
    ----------
    house
        The house as the agent finds it.
    goals
        The subgoals. Those that are no gifts stay, in their order; new ones come last.
    count
        Number of subgoals wanted.
    kinds
        Kinds to draw from.
    rng
        Source of the draws. Nothing is drawn where there is no gift.

    Returns
    -------
    list of Subgoal
        The task; fewer than ``count`` subgoals where the house offers no more.
    """
    while given := gifts(house, goals):
        goals = [goal for goal in goals if goal not in given]
    for _ in range(ATTEMPTS * (count - len(goals))):
        if len(goals) == count:
            break
        writer = TaskWriter(house, rng)
        writer.follow(goals)
        goal = writer.one_more(kinds)
        if goal is not None and goal not in goals and not gifts(house, [*goals, goal]):
            goals = [*goals, goal]
    return goals
