"""How a household is laid out: which rooms connect, through doors or open doorways, what is locked, and where things lie."""

from typing import TYPE_CHECKING

from minigrid.core.constants import COLOR_NAMES
from minigrid.core.world_object import Ball, Key, WorldObj

from envs.household.containers import Container
from envs.household.flood import flood
from envs.observation.names import ROOM_NAMES

if TYPE_CHECKING:
    from envs.household.env import HouseholdEnv

Edge = tuple[int, int]
_RIGHT, _DOWN = 0, 1


def build(env: "HouseholdEnv") -> None:
    """Fill ``env.grid`` (walls stand already): names, doorways, doors, the agent, boxes, objects, locks and keys."""
    rooms = env.num_rows * env.num_cols
    env.room_names = tuple(ROOM_NAMES[i] for i in env.np_random.permutation(len(ROOM_NAMES))[:rooms])
    env.things = {}
    tree, extra = _edges(env)
    start = int(env.np_random.integers(rooms))
    doors = _open_ways(env, tree, extra)
    locked = _choose_locks(env, doors, tree, extra, start)
    env.place_agent(start % env.num_cols, start // env.num_cols)
    _place_things(env, locked, _component(start, [e for e in tree + extra if e not in locked]))
    for edge in locked:
        doors[edge].is_locked = True


def _edges(env: "HouseholdEnv") -> tuple[list[Edge], list[Edge]]:
    """A random spanning tree of the rooms, and about a quarter of the other walls as further ways."""
    cols, rooms = env.num_cols, env.num_rows * env.num_cols
    walls = [(a, a + 1) for a in range(rooms) if a % cols < cols - 1] + [(a, a + cols) for a in range(rooms - cols)]
    tree: list[Edge] = []
    extra: list[Edge] = []
    for index in env.np_random.permutation(len(walls)):
        edge = walls[index]
        if edge[1] not in _component(edge[0], tree):
            tree.append(edge)
        elif env.np_random.random() < 0.25:
            extra.append(edge)
    return tree, extra


def _component(start: int, edges: list[Edge]) -> set[int]:
    """The rooms that ``edges`` connect with ``start``."""
    return flood(start, lambda room: [a + b - room for a, b in edges if room in (a, b)])


def _open_ways(env: "HouseholdEnv", tree: list[Edge], extra: list[Edge]) -> dict[Edge, WorldObj]:
    """Doors of distinct colours on the first ways, open doorways on the others."""
    colors = [COLOR_NAMES[i] for i in env.np_random.permutation(len(COLOR_NAMES))]
    doors: dict[Edge, WorldObj] = {}
    for edge in [*tree, *extra]:
        i, j = edge[0] % env.num_cols, edge[0] // env.num_cols
        side = _RIGHT if edge[1] == edge[0] + 1 and env.num_cols > 1 else _DOWN
        if len(doors) < env.config.doors:
            color = colors[len(doors)]
            doors[edge] = env.things[f"{color} door"] = env.add_door(i, j, side, color, locked=False)[0]
        else:
            env.add_doorway(i, j, side)
    return doors


def _choose_locks(env: "HouseholdEnv", doors: dict[Edge, WorldObj], tree: list[Edge], extra: list[Edge], start: int) -> list[Edge]:
    """Doors that are the only way to some room, chosen at random; the agent starts before all of them."""
    locked: list[Edge] = []
    ways = tree + extra
    for index in env.np_random.permutation(len(doors)):
        edge = list(doors)[index]
        rest = [way for way in ways if way not in (*locked, edge)]
        if len(locked) < env.config.locked_doors and edge[1] not in _component(edge[0], rest) and len(_component(start, rest)) > 1:
            locked.append(edge)
    return locked


def _place_things(env: "HouseholdEnv", locked: list[Edge], before_locks: set[int]) -> None:
    """Keys of the locked doors in rooms before the locks; boxes and other objects anywhere, a third of them inside boxes."""
    rooms = range(env.num_rows * env.num_cols)
    lock_colors = [env.door_between(edge).color for edge in locked]
    for color in lock_colors:
        _add(env, Key(color), sorted(before_locks))
    box_colors = [COLOR_NAMES[i] for i in env.np_random.permutation(len(COLOR_NAMES))][: env.config.boxes]
    boxes = [_add(env, Container(color), list(rooms)) for color in box_colors]
    names = [(cls, c) for cls in (Ball, Key) for c in COLOR_NAMES if not (cls is Key and f"{c} key" in env.things)]
    order = env.np_random.permutation(len(names))[: env.config.objects]
    for cls, color in (names[i] for i in order):
        empty = [box for box in boxes if box is not None and box.contains is None]
        if empty and env.np_random.random() < 0.34:
            _hide(env, cls(color), empty[int(env.np_random.integers(len(empty)))])
        else:
            _add(env, cls(color), list(rooms))


def _add(env: "HouseholdEnv", thing: WorldObj, rooms: list[int]) -> WorldObj | None:
    """Put the thing on a free, harmless cell of one of the rooms; left out where all of them are full."""
    for index in env.np_random.permutation(len(rooms)):
        cell = env.free_cell(rooms[index], env.np_random)
        if cell is not None:
            env.put_obj(thing, *cell)
            env.things[f"{thing.color} {thing.type}"] = thing
            return thing
    return None


def _hide(env: "HouseholdEnv", thing: WorldObj, box: WorldObj) -> None:
    box.contains, thing.cur_pos = thing, box.cur_pos
    env.things[f"{thing.color} {thing.type}"] = thing
