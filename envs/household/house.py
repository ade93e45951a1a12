"""The house itself: where rooms, doors, boxes and things are, what the agent can get at, and how things are put elsewhere.

It knows nothing of tasks, of disturbances, or of what the agent is told; those are the business of ``envs.household.env``.
"""

from typing import Any

import numpy as np
from minigrid.core.roomgrid import RoomGrid
from minigrid.core.world_object import Door, WorldObj
from numpy.typing import NDArray

from envs.household.flood import flood
from envs.observation.embodied import room_indices

Cell = tuple[int, int]


class House(RoomGrid):
    """Minigrid's ``RoomGrid`` with named rooms and named things. ``seen`` (width, height) marks the cells that were in view."""

    room_names: tuple[str, ...]
    things: dict[str, WorldObj]
    carrying: WorldObj | None
    seen: NDArray[np.bool_]

    # ---- rooms -----------------------------------------------------------------------------------------------------------------

    def room_at(self, x: int, y: int) -> int:
        """Index of the room at a cell; -1 for walls and doorways."""
        return int(room_indices(np.array((x, y)), self.room_size, self.num_cols, self.num_rows))

    def agent_room(self) -> int:
        """Index of the room that the agent is in, or next to while it stands in a doorway."""
        rooms = [self.room_at(*map(int, self.agent_pos)), *(self.room_at(*cell) for cell in self.neighbors(self.agent_pos))]
        return next(room for room in rooms if room >= 0)

    def is_inspected(self, room: int) -> bool:
        """Whether every cell of the room has been in view since the episode began."""
        x, y = self._corner(room)
        inner = self.room_size - 2
        return bool(self.seen[x : x + inner, y : y + inner].all())

    def rooms_by_walk(self) -> list[int]:
        """All rooms in the order in which a walk from the agent's room comes to them (depth first)."""
        order: list[int] = []
        stack = [self.agent_room()]
        while stack:
            room = stack.pop()
            if room not in order:
                order.append(room)
                sides = self.get_room(room % self.num_cols, room // self.num_cols).doors
                steps = (1, self.num_cols, -1, -self.num_cols)
                stack.extend(room + step for side, step in zip(sides, steps, strict=True) if side and room + step not in order)
        return order

    # ---- doors and things ------------------------------------------------------------------------------------------------------

    def doors(self) -> list[Door]:
        """All doors, in a fixed order."""
        return [door for _, door in self.door_items()]

    def door_items(self) -> list[tuple[str, Door]]:
        """Names and doors, in a fixed order."""
        return [(name, thing) for name, thing in self.things.items() if thing.type == "door"]

    def door_between(self, edge: tuple[int, int]) -> Door:
        """The door between two adjacent rooms."""
        room = self.get_room(edge[0] % self.num_cols, edge[0] // self.num_cols)
        return room.doors[0 if edge[1] == edge[0] + 1 and self.num_cols > 1 else 1]

    def box_names(self) -> list[str]:
        """Names of the boxes."""
        return [name for name, thing in self.things.items() if thing.type == "box"]

    def movable_names(self) -> list[str]:
        """Names of what can be carried."""
        return [name for name, thing in self.things.items() if thing.type in ("ball", "key")]

    def loose_things(self) -> list[WorldObj]:
        """What can be carried and lies on the floor."""
        things = [self.things[name] for name in self.movable_names()]
        return [thing for thing in things if thing is not self.carrying and self.container_of(thing) is None]

    def room_of_thing(self, name: str) -> int:
        """Index of the room in which the thing is (with the agent, where the agent holds it)."""
        thing = self.things[name]
        return self.agent_room() if thing is self.carrying else self.room_at(*map(int, thing.cur_pos))

    def container_of(self, thing: WorldObj) -> WorldObj | None:
        """The box that holds the thing."""
        return next((box for box in self.things.values() if box.type == "box" and box.contains is thing), None)

    # ---- ways ------------------------------------------------------------------------------------------------------------------

    def neighbors(self, position: Any) -> list[Cell]:
        """The four cells next to a position."""
        x, y = int(position[0]), int(position[1])
        return [(x + 1, y), (x, y + 1), (x - 1, y), (x, y - 1)]

    def is_agent_at(self, position: Any) -> bool:
        """Whether the agent stands there."""
        return bool(self.agent_pos[0] == position[0] and self.agent_pos[1] == position[1])

    def reachable(self) -> set[Cell]:
        """Cells that the agent can walk to through doors that are not locked."""
        start = (int(self.agent_pos[0]), int(self.agent_pos[1]))
        return flood(start, lambda cell: [near for near in self.neighbors(cell) if self._is_way(near)])

    def is_key_reachable(self, color: str) -> bool:
        """Whether the agent holds the key of this colour or can walk up to it."""
        key = self.things.get(f"{color} key")
        if key is None or key is self.carrying:
            return key is not None
        reach = self.reachable()
        return any(cell in reach for cell in self.neighbors(key.cur_pos))

    def _is_way(self, cell: Cell) -> bool:
        thing = self.grid.get(*cell)
        return thing is None or (thing.type == "door" and not thing.is_locked)

    # ---- changes ---------------------------------------------------------------------------------------------------------------

    def add_doorway(self, i: int, j: int, side: int) -> None:
        """An open way through a wall, one cell wide."""
        room = self.get_room(i, j)
        self.grid.set(*room.door_pos[side], None)
        room.doors[side] = room.neighbors[side].doors[(side + 2) % 4] = True

    def relocate(self, thing: WorldObj, cell: Cell) -> None:
        """Move a loose thing to a free cell."""
        self.grid.set(*map(int, thing.cur_pos), None)
        self.put_obj(thing, *cell)

    def free_cell(self, room: int, rng: np.random.Generator) -> Cell | None:
        """A random free cell of the room that blocks neither a doorway nor a way through the room; ``None`` if there is none."""
        cells = self._room_cells(room)
        free = {cell for cell in cells if self.grid.get(*cell) is None}
        for index in rng.permutation(len(cells)):
            cell = cells[int(index)]
            if cell in free and not self.is_agent_at(cell) and not self._at_doorway(cell) and self._keeps_way(cell, cells, free):
                return cell
        return None

    def _at_doorway(self, cell: Cell) -> bool:
        return any(self.room_at(*near) < 0 and not self._is_wall(near) for near in self.neighbors(cell))

    def _is_wall(self, cell: Cell) -> bool:
        thing = self.grid.get(*cell)
        return thing is not None and thing.type == "wall"

    def _keeps_way(self, cell: Cell, cells: list[Cell], free: set[Cell]) -> bool:
        """With ``cell`` taken, does the rest of the room stay connected, and all things in it (the new one too) within reach?"""
        rest = free - {cell}
        if not rest:
            return False
        found = flood(next(iter(rest)), lambda spot: [near for near in self.neighbors(spot) if near in rest])
        taken = [c for c in cells if c not in rest]
        return found == rest and all(any(n in rest for n in self.neighbors(c)) for c in taken)

    def _corner(self, room: int) -> Cell:
        pitch = self.room_size - 1
        return (room % self.num_cols) * pitch + 1, (room // self.num_cols) * pitch + 1

    def _room_cells(self, room: int) -> list[Cell]:
        x, y = self._corner(room)
        inner = range(self.room_size - 2)
        return [(x + i, y + j) for i in inner for j in inner]
