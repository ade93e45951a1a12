"""Disturbances: changes to the household that the agent does not cause.

Seed and step alone decide which disturbances strike: two backends that act the same meet the same ones, however fast they are. No
disturbance does the agent's work: one that would reach a subgoal does not strike. A new disturbance is one function here and one
line in ``DISTURBANCES``.
"""

from collections.abc import Callable

import numpy as np

from envs.household.config import DisturbanceRates
from envs.household.house import House

Effect = Callable[[House, np.random.Generator], str | None]
"""Changes the house. Returns what happened, such as ``red door closed``, or ``None`` where nothing could happen."""


def step_generator(seed: int, step: int) -> np.random.Generator:
    """Return the random generator of one step."""
    return np.random.default_rng((seed, step))


def close_door(house: House, rng: np.random.Generator) -> str | None:
    """Close an open door that the agent does not stand in."""
    doors = [door for door in house.doors() if door.is_open and not house.is_agent_at(door.cur_pos)]
    if not doors:
        return None
    door = doors[int(rng.integers(len(doors)))]
    door.is_open = False
    return f"{door.color} door closed"


def lock_door(house: House, rng: np.random.Generator) -> str | None:
    """Lock a door whose key the agent can reach without passing that door."""
    doors = [door for door in house.doors() if not door.is_locked and not house.is_agent_at(door.cur_pos)]
    if not doors:
        return None
    door = doors[int(rng.integers(len(doors)))]
    was_open = door.is_open
    door.is_open, door.is_locked = False, True
    if house.is_key_reachable(door.color):
        return f"{door.color} door locked"
    door.is_open, door.is_locked = was_open, False
    return None


def move_object(house: House, rng: np.random.Generator) -> str | None:
    """Move a thing from the floor to another place that the agent can reach."""
    reach = house.reachable()
    loose = [t for t in house.loose_things() if any(near in reach for near in house.neighbors(t.cur_pos))]
    rooms = sorted({house.room_at(*cell) for cell in reach} - {-1})
    if not loose or not rooms:
        return None
    thing = loose[int(rng.integers(len(loose)))]
    cell = house.free_cell(rooms[int(rng.integers(len(rooms)))], rng)
    if cell is None:
        return None
    gifts, before = house.gifts(), (int(thing.cur_pos[0]), int(thing.cur_pos[1]))
    house.relocate(thing, cell)
    if house.gifts() <= gifts:
        return f"{thing.color} {thing.type} moved"
    house.relocate(thing, before)
    return None


def knock_item(house: House, rng: np.random.Generator) -> str | None:
    """Knock the held thing out of the agent's hand; it lands in the same room."""
    item = house.carrying
    cell = None if item is None else house.free_cell(house.agent_room(), rng)
    if item is None or cell is None:
        return None
    gifts = house.gifts()
    house.drop_at(cell)
    if house.gifts() <= gifts:
        return f"{item.color} {item.type} knocked away"
    house.take(item)
    return None


def change_goal(house: House, rng: np.random.Generator) -> str | None:
    """Replace an open subgoal."""
    return "goal changed" if house.replace_open_subgoal(rng) else None


DISTURBANCES: dict[str, Effect] = {
    "door_closes": close_door,
    "door_locks": lock_door,
    "object_moves": move_object,
    "item_knocked": knock_item,
    "goal_changes": change_goal,
}
"""The disturbances by the names of their rates, in the order in which they strike."""


def disturb(house: House, rates: DisturbanceRates, seed: int, step: int) -> list[str]:
    """Apply the disturbances of one step.

    Parameters
    ----------
    house
        The house to disturb.
    rates
        Probability of each disturbance.
    seed
        Seed of the episode.
    step
        Environment step, from 1.

    Returns
    -------
    list of str
        What happened, such as ``red door closed``; empty where nothing did.
    """
    rng = step_generator(seed, step)
    draws = rng.random(len(DISTURBANCES) + 1)[1:]  # the first draw of a step belongs to ``slips``
    strikes = [name for name, draw in zip(DISTURBANCES, draws, strict=True) if draw < getattr(rates, name)]
    effects = (DISTURBANCES[name](house, rng) for name in strikes)
    return [effect for effect in effects if effect is not None]


def slips(seed: int, step: int, rate: float) -> bool:
    """Decide whether an interaction (pick up, drop, toggle) at this step fails, which it does with probability ``rate``."""
    return bool(step_generator(seed, step).random() < rate)
