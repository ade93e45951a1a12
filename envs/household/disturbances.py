"""Disturbances: what happens in the household without the agent's doing.

Which of them strike at a step is a function of the seed and the step alone, so that every backend meets the same ones as long as
its episode takes the same course. One function per disturbance; one line in ``DISTURBANCES``.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from envs.household.env import HouseholdEnv

Effect = Callable[["HouseholdEnv", np.random.Generator], str | None]
MAX_GOAL_CHANGES = 2


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The source of all chance at one step."""
    return np.random.default_rng((seed, step))


def close_door(env: "HouseholdEnv", rng: np.random.Generator) -> str | None:
    """An open door that nobody stands in falls shut."""
    doors = [door for door in env.doors() if door.is_open and not env.is_agent_at(door.cur_pos)]
    if not doors:
        return None
    door = doors[int(rng.integers(len(doors)))]
    door.is_open = False
    return f"{door.color} door closed"


def lock_door(env: "HouseholdEnv", rng: np.random.Generator) -> str | None:
    """A door locks, if its key exists and can be reached without passing that door."""
    doors = [door for door in env.doors() if not door.is_locked and not env.is_agent_at(door.cur_pos)]
    if not doors:
        return None
    door = doors[int(rng.integers(len(doors)))]
    was_open = door.is_open
    door.is_open, door.is_locked = False, True
    if env.is_key_reachable(door.color):
        return f"{door.color} door locked"
    door.is_open, door.is_locked = was_open, False
    return None


def move_object(env: "HouseholdEnv", rng: np.random.Generator) -> str | None:
    """Somebody carries a loose object to another place that the agent can reach."""
    reach = env.reachable()
    loose = [t for t in env.loose_things() if any(near in reach for near in env.neighbors(t.cur_pos))]
    rooms = sorted({env.room_at(*cell) for cell in reach} - {-1})
    if not loose or not rooms:
        return None
    thing = loose[int(rng.integers(len(loose)))]
    cell = env.free_cell(rooms[int(rng.integers(len(rooms)))], rng)
    if cell is None:
        return None
    env.relocate(thing, cell)
    return f"{thing.color} {thing.type} moved"


def knock_item(env: "HouseholdEnv", rng: np.random.Generator) -> str | None:
    """The held item is knocked out of the agent's hand and lands somewhere in the room."""
    item = env.carrying
    cell = None if item is None else env.free_cell(env.agent_room(), rng)
    if item is None or cell is None:
        return None
    env.carrying = None
    env.put_obj(item, *cell)
    return f"{item.color} {item.type} knocked away"


def change_goal(env: "HouseholdEnv", rng: np.random.Generator) -> str | None:
    """The open subgoal is replaced by another one."""
    if env.goal_changes >= MAX_GOAL_CHANGES or not env.replace_open_subgoal(rng):
        return None
    env.goal_changes += 1
    return "goal changed"


DISTURBANCES: dict[str, Effect] = {
    "door_closes": close_door,
    "door_locks": lock_door,
    "object_moves": move_object,
    "item_knocked": knock_item,
    "goal_changes": change_goal,
}


def disturb(env: "HouseholdEnv", seed: int, step: int) -> list[str]:
    """Apply this step's disturbances and name those that had an effect."""
    rng = step_generator(seed, step)
    draws = rng.random(len(DISTURBANCES) + 1)[1:]
    rates = env.config.disturbances
    strikes = [name for name, draw in zip(DISTURBANCES, draws, strict=True) if draw < getattr(rates, name)]
    effects = (DISTURBANCES[name](env, rng) for name in strikes)
    return [effect for effect in effects if effect is not None]


def slips(seed: int, step: int, rate: float) -> bool:
    """Whether an interaction (pick up, drop, toggle) at this step fails."""
    return bool(step_generator(seed, step).random() < rate)
