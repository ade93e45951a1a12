"""Subgoals: what they say, and when they are reached. One line in ``KINDS`` per kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigrid.core.world_object import Door, WorldObj

if TYPE_CHECKING:
    from envs.household.env import HouseholdEnv


@dataclass(frozen=True)
class Subgoal:
    """One subgoal. ``thing`` and ``target`` are names such as ``red ball``, ``kitchen`` or ``blue box``."""

    kind: str
    thing: str
    target: str = ""

    @property
    def text(self) -> str:
        """The subgoal as the agent reads it, such as ``bring red ball to kitchen``."""
        return KINDS[self.kind].template.format(thing=self.thing, target=self.target)


Reached = Callable[["HouseholdEnv", Subgoal], bool]


@dataclass(frozen=True)
class SubgoalKind:
    """How a kind of subgoal is written and checked."""

    template: str
    reached: Reached


def _position(env: "HouseholdEnv", name: str) -> tuple[int, int] | None:
    """Where the thing lies on the floor; ``None`` while it is held or inside a box."""
    thing = env.things[name]
    if thing is env.carrying or env.container_of(thing) is not None or thing.cur_pos is None:
        return None
    return int(thing.cur_pos[0]), int(thing.cur_pos[1])


def _brought(env: "HouseholdEnv", goal: Subgoal) -> bool:
    position = _position(env, goal.thing)
    return position is not None and env.room_at(*position) == env.room_names.index(goal.target)


def _next_to(env: "HouseholdEnv", goal: Subgoal) -> bool:
    a, b = _position(env, goal.thing), _position(env, goal.target)
    return a is not None and b is not None and abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1


def _inside(env: "HouseholdEnv", goal: Subgoal) -> bool:
    return env.things[goal.target] is env.container_of(env.things[goal.thing])


def _door(env: "HouseholdEnv", goal: Subgoal) -> Door:
    door: WorldObj = env.things[goal.thing]
    return door


def _opened(env: "HouseholdEnv", goal: Subgoal) -> bool:
    return bool(_door(env, goal).is_open)


def _unlocked(env: "HouseholdEnv", goal: Subgoal) -> bool:
    return not _door(env, goal).is_locked


def _inspected(env: "HouseholdEnv", goal: Subgoal) -> bool:
    return env.is_inspected(env.room_names.index(goal.thing))


KINDS: dict[str, SubgoalKind] = {
    "bring": SubgoalKind("bring {thing} to {target}", _brought),
    "next_to": SubgoalKind("put {thing} next to {target}", _next_to),
    "inside": SubgoalKind("put {thing} in {target}", _inside),
    "open": SubgoalKind("open {thing}", _opened),
    "unlock": SubgoalKind("unlock {thing}", _unlocked),
    "inspect": SubgoalKind("inspect {thing}", _inspected),
}
