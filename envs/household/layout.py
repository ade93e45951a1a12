"""The layout of a household: which rooms connect, by doors or open doorways, which doors are locked, and where things lie."""

import numpy as np
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import Ball, Key, WorldObj

from envs.household.config import HouseholdConfig
from envs.household.containers import Container
from envs.household.flood import flood
from envs.household.house import House
from envs.observation.names import ROOM_NAMES

Edge = tuple[int, int]
"""Two adjacent rooms by index, the smaller one first."""
_RIGHT, _DOWN = 0, 1


def build(house: House, config: HouseholdConfig, rng: np.random.Generator) -> None:
    """Lay out a house whose walls already stand.

    Sets ``room_names`` and ``things``, and fills the grid with doorways, doors, the agent, boxes, objects, locks and keys.

    Parameters
    ----------
    house
        The house to fill.
    config
        How many doors, locks, boxes and objects to place.
    rng
        The environment's generator, ``house.np_random``: minigrid draws from it as well.
    """
    rooms = house.num_rows * house.num_cols
    house.room_names = tuple(ROOM_NAMES[i] for i in rng.permutation(len(ROOM_NAMES))[:rooms])
    house.things = {}
    tree, extra = _edges(house, rng)
    start = int(rng.integers(rooms))
    doors = _open_ways(house, tree + extra, config.doors, rng)
    locked = _choose_locks(list(doors), tree + extra, start, config.locked_doors, rng)
    house.place_agent(start % house.num_cols, start // house.num_cols)
    before_locks = _component(start, [edge for edge in tree + extra if edge not in locked])
    _place_keys(house, locked, sorted(before_locks), rng)
    _place_objects(house, _place_boxes(house, config.boxes, rng), config, rng)
    for edge in locked:
        doors[edge].is_locked = True


def _edges(house: House, rng: np.random.Generator) -> tuple[list[Edge], list[Edge]]:
    """Draw a random spanning tree of the rooms, and about a quarter of the other walls as further ways."""
    cols, rooms = house.num_cols, house.num_rows * house.num_cols
    walls = [(a, a + 1) for a in range(rooms) if a % cols < cols - 1] + [(a, a + cols) for a in range(rooms - cols)]
    tree: list[Edge] = []
    extra: list[Edge] = []
    for index in rng.permutation(len(walls)):
        edge = walls[index]
        if edge[1] not in _component(edge[0], tree):
            tree.append(edge)
        elif rng.random() < 0.25:
            extra.append(edge)
    return tree, extra


def _component(start: int, edges: list[Edge]) -> set[int]:
    """Return the rooms that ``edges`` connect with ``start``."""
    return flood(start, lambda room: [a + b - room for a, b in edges if room in (a, b)])


def _open_ways(house: House, ways: list[Edge], count: int, rng: np.random.Generator) -> dict[Edge, WorldObj]:
    """Put doors of distinct colours into the first ``count`` ways, and leave open doorways in the others."""
    colors = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))]
    doors: dict[Edge, WorldObj] = {}
    for edge in ways:
        i, j = edge[0] % house.num_cols, edge[0] // house.num_cols
        side = _RIGHT if edge[1] == edge[0] + 1 and house.num_cols > 1 else _DOWN
        if len(doors) < count:
            color = colors[len(doors)]
            doors[edge] = house.things[f"{color} door"] = house.add_door(i, j, side, color, locked=False)[0]
        else:
            house.add_doorway(i, j, side)
    return doors


def _choose_locks(doors: list[Edge], ways: list[Edge], start: int, count: int, rng: np.random.Generator) -> list[Edge]:
    """Draw up to ``count`` doors, each the only way to some room. The agent starts outside all of those rooms."""
    locked: list[Edge] = []
    for index in rng.permutation(len(doors)):
        edge = doors[index]
        rest = [way for way in ways if way not in (*locked, edge)]
        if len(locked) < count and edge[1] not in _component(edge[0], rest) and len(_component(start, rest)) > 1:
            locked.append(edge)
    return locked


def _place_keys(house: House, locked: list[Edge], rooms: list[int], rng: np.random.Generator) -> None:
    """Put the key of each locked door into one of ``rooms``: those that can be reached without passing a locked door."""
    for color in [house.door_between(edge).color for edge in locked]:
        _add(house, Key(color), rooms, rng)


def _place_boxes(house: House, count: int, rng: np.random.Generator) -> list[WorldObj]:
    """Put up to ``count`` boxes of distinct colours into random rooms, and return those for which there was a place."""
    colors = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))][:count]
    boxes = [_add(house, Container(color), _all_rooms(house), rng) for color in colors]
    return [box for box in boxes if box is not None]


def _place_objects(house: House, boxes: list[WorldObj], config: HouseholdConfig, rng: np.random.Generator) -> None:
    """Put up to ``config.objects`` balls and keys into random rooms, some of them into empty boxes."""
    names = [(cls, c) for cls in (Ball, Key) for c in COLOR_NAMES if not (cls is Key and f"{c} key" in house.things)]
    order = rng.permutation(len(names))[: config.objects]
    for cls, color in (names[i] for i in order):
        empty = [box for box in boxes if box.contains is None]
        if empty and rng.random() < config.boxed:
            _hide(house, cls(color), empty[int(rng.integers(len(empty)))])
        else:
            _add(house, cls(color), _all_rooms(house), rng)


def _all_rooms(house: House) -> list[int]:
    return list(range(house.num_rows * house.num_cols))


def _add(house: House, thing: WorldObj, rooms: list[int], rng: np.random.Generator) -> WorldObj | None:
    """Put the thing on a free cell of one of the rooms where it blocks no way; leave it out where there is none."""
    for index in rng.permutation(len(rooms)):
        cell = house.free_cell(rooms[index], rng)
        if cell is not None:
            house.put_obj(thing, *cell)
            house.things[f"{thing.color} {thing.type}"] = thing
            return thing
    return None


def _hide(house: House, thing: WorldObj, box: WorldObj) -> None:
    """Put the thing into the box."""
    box.contains, thing.cur_pos = thing, box.cur_pos
    house.things[f"{thing.color} {thing.type}"] = thing
