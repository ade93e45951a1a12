"""The inventory: an old survey of the house that is partly out of date, and how the house has changed since.

The survey says what stood where: walls, doors with their states, boxes, and the things on the floor. It does not say what is in a
box.
"""

import numpy as np
from minigrid.core.world_object import WorldObj
from numpy.typing import NDArray

from envs.household.containers import BOX_CLOSED
from envs.household.disturbances import lock_door
from envs.household.house import House
from envs.observation.embodied import Cell, room_indices
from envs.observation.names import BOX

Inventory = dict[str, NDArray[np.generic]]
"""``image``: minigrid's codes of type, colour and state per cell, shape (width, height, 3), uint8. ``rooms``: index of the room of
each cell, -1 for walls and doorways, shape (width, height), int8."""
DOOR_LOCKS = 0.5
"""Probability that a door has been locked since the survey, where its key can be reached."""


def survey(house: House) -> Inventory:
    """Write down the house as it is now, all boxes closed and the agent left out."""
    image = house.grid.encode()
    image[image[..., 0] == BOX, 2] = BOX_CLOSED
    cells = np.stack(np.meshgrid(np.arange(house.width), np.arange(house.height), indexing="ij"), axis=-1)
    return {"image": image, "rooms": room_indices(cells, house.room_size, house.num_cols, house.num_rows).astype(np.int8)}


def age(house: House, share: float, rng: np.random.Generator) -> list[str]:
    """Change the house as if time had passed since the survey.

    Parameters
    ----------
    house
        The house; things are moved and a door may be locked.
    share
        Share of the things on the floor that are carried to another room, 0 to 1; rounded, and at least one thing.
    rng
        Source of all random choices.

    Returns
    -------
    list of str
        Names of the things that were moved. Fewer than asked for where no other room has a place.
    """
    loose = house.loose_things()
    wanted, moved = max(round(share * len(loose)), 1), list[str]()
    for thing in (loose[i] for i in rng.permutation(len(loose))):
        cell = _place_elsewhere(house, thing, rng) if len(moved) < wanted else None
        if cell is not None:
            house.relocate(thing, cell)
            moved.append(f"{thing.color} {thing.type}")
    if rng.random() < DOOR_LOCKS:
        lock_door(house, rng)
    return moved


def _place_elsewhere(house: House, thing: WorldObj, rng: np.random.Generator) -> Cell | None:
    """Draw a place in another room. A key stays where the agent can reach it: it may be the key of a locked door."""
    reach, own = house.reachable(), house.room_at(*map(int, thing.cur_pos))
    rooms = [i for i in range(len(house.room_names)) if i != own]
    if thing.type == "key":
        reached = {house.room_at(*cell) for cell in reach}
        rooms = [room for room in rooms if room in reached]
    cells = (house.free_cell(rooms[int(i)], rng) for i in rng.permutation(len(rooms)))
    return next((cell for cell in cells if cell is not None), None)
