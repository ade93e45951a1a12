"""Subgoals: their text, and when they are reached. One line in ``KINDS`` per kind."""

from collections.abc import Callable
from dataclasses import dataclass

from minigrid.core.world_object import Door, WorldObj

from envs.household.house import House
from envs.observation.embodied import Cell


@dataclass(frozen=True)
class Subgoal:
    """One part of the task."""

    kind: str
    """Its kind, by the name in ``KINDS``."""
    thing: str
    """Name of what it is about: a thing such as ``red ball``, or a room."""
    target: str = ""
    """Name of the room or thing to bring it to; empty where the kind has none."""

    @property
    def text(self) -> str:
        """The subgoal as the agent reads it, such as ``bring red ball to kitchen``."""
        return KINDS[self.kind].template.format(thing=self.thing, target=self.target)


Reached = Callable[[House, Subgoal], bool]
"""Whether the subgoal is reached in the house as it is now."""


@dataclass(frozen=True)
class SubgoalKind:
    """A kind of subgoal."""

    template: str
    """Its text, with ``{thing}`` and ``{target}`` to fill in."""
    reached: Reached
    """The check whether it is reached."""


def _position(house: House, name: str) -> Cell | None:
    """Return the thing's cell on the floor; ``None`` while it is held or inside a box."""
    thing = house.things[name]
    if thing is house.carrying or house.container_of(thing) is not None or thing.cur_pos is None:
        return None
    return int(thing.cur_pos[0]), int(thing.cur_pos[1])


def _brought(house: House, goal: Subgoal) -> bool:
    position = _position(house, goal.thing)
    return position is not None and house.room_at(*position) == house.room_names.index(goal.target)


def _next_to(house: House, goal: Subgoal) -> bool:
    a, b = _position(house, goal.thing), _position(house, goal.target)
    return a is not None and b is not None and abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1


def _inside(house: House, goal: Subgoal) -> bool:
    return house.things[goal.target] is house.container_of(house.things[goal.thing])


def _door(house: House, goal: Subgoal) -> Door:
    door: WorldObj = house.things[goal.thing]
    return door


def _opened(house: House, goal: Subgoal) -> bool:
    return bool(_door(house, goal).is_open)


def _unlocked(house: House, goal: Subgoal) -> bool:
    return not _door(house, goal).is_locked


def _inspected(house: House, goal: Subgoal) -> bool:
    return house.is_inspected(house.room_names.index(goal.thing))


KINDS: dict[str, SubgoalKind] = {
    "bring": SubgoalKind("bring {thing} to {target}", _brought),
    "next_to": SubgoalKind("put {thing} next to {target}", _next_to),
    "inside": SubgoalKind("put {thing} in {target}", _inside),
    "open": SubgoalKind("open {thing}", _opened),
    "unlock": SubgoalKind("unlock {thing}", _unlocked),
    "inspect": SubgoalKind("inspect {thing}", _inspected),
}
