"""The house: its rooms, doors, boxes and things, what the agent can reach, and how things are moved.

It knows no tasks, disturbances or texts; ``envs.household.env`` adds them.
"""

from typing import Any

import numpy as np
from minigrid.core.roomgrid import RoomGrid
from minigrid.core.world_object import Door, WorldObj
from numpy.typing import NDArray

from envs.household.flood import flood
from envs.observation.embodied import Cell, room_indices


class House(RoomGrid):
    """Minigrid's ``RoomGrid`` with named rooms and named things."""

    room_names: tuple[str, ...]
    """Names of the rooms by index; rooms are counted row by row."""
    things: dict[str, WorldObj]
    """Doors, boxes, balls and keys by name, such as ``red ball``."""
    carrying: WorldObj | None
    """What the agent holds."""
    seen: NDArray[np.bool_]
    """Cells that have been in view since the episode began, shape (width, height)."""

    # ---- rooms -----------------------------------------------------------------------------------------------------------------

    def room_at(self, x: int, y: int) -> int:
        """Return the index of the room at a cell; -1 for walls and doorways."""
        return int(room_indices(np.array((x, y)), self.room_size, self.num_cols, self.num_rows))

    def agent_room(self) -> int:
        """Return the index of the agent's room, or of a room next to it while it stands in a doorway."""
        rooms = [self.room_at(*map(int, self.agent_pos)), *(self.room_at(*cell) for cell in self.neighbors(self.agent_pos))]
        return next(room for room in rooms if room >= 0)

    def is_inspected(self, room: int) -> bool:
        """Tell whether every cell of the room has been in view since the episode began."""
        x, y = self._corner(room)
        inner = self.room_size - 2
        return bool(self.seen[x : x + inner, y : y + inner].all())

    def rooms_by_walk(self) -> list[int]:
        """List all rooms in the order in which a walk from the agent's room comes to them (depth first)."""
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
        """List all doors, in a fixed order."""
        return [door for _, door in self.door_items()]

    def door_items(self) -> list[tuple[str, Door]]:
        """List all doors with their names, in a fixed order."""
        return [(name, thing) for name, thing in self.things.items() if thing.type == "door"]

    def door_between(self, edge: tuple[int, int]) -> Door:
        """Return the door between two adjacent rooms, the smaller index first."""
        room = self.get_room(edge[0] % self.num_cols, edge[0] // self.num_cols)
        return room.doors[0 if edge[1] == edge[0] + 1 and self.num_cols > 1 else 1]

    def box_names(self) -> list[str]:
        """List the names of the boxes."""
        return [name for name, thing in self.things.items() if thing.type == "box"]

    def movable_names(self) -> list[str]:
        """List the names of what can be carried."""
        return [name for name, thing in self.things.items() if thing.type in ("ball", "key")]

    def loose_things(self) -> list[WorldObj]:
        """List what can be carried and lies on the floor."""
        things = [self.things[name] for name in self.movable_names()]
        return [thing for thing in things if thing is not self.carrying and self.container_of(thing) is None]

    def room_of_thing(self, name: str) -> int:
        """Return the index of the thing's room; a held thing is in the agent's room."""
        thing = self.things[name]
        return self.agent_room() if thing is self.carrying else self.room_at(*map(int, thing.cur_pos))

    def container_of(self, thing: WorldObj) -> WorldObj | None:
        """Return the box that holds the thing, or ``None``."""
        return next((box for box in self.things.values() if box.type == "box" and box.contains is thing), None)

    # ---- reach -----------------------------------------------------------------------------------------------------------------

    def neighbors(self, position: Any) -> list[Cell]:
        """List the four cells next to a position."""
        x, y = int(position[0]), int(position[1])
        return [(x + 1, y), (x, y + 1), (x - 1, y), (x, y - 1)]

    def is_agent_at(self, position: Any) -> bool:
        """Tell whether the agent stands there."""
        return bool(self.agent_pos[0] == position[0] and self.agent_pos[1] == position[1])

    def reachable(self) -> set[Cell]:
        """Return the cells that the agent can walk to; it can open doors that are not locked."""
        start = (int(self.agent_pos[0]), int(self.agent_pos[1]))
        return flood(start, lambda cell: [near for near in self.neighbors(cell) if self._is_way(near)])

    def is_key_reachable(self, color: str) -> bool:
        """Tell whether the agent holds the key of this colour or can walk up to it."""
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
        """Open a way one cell wide through a wall.

        Parameters
        ----------
        i, j
            Column and row of the room.
        side
            Wall of the room: 0 right, 1 below, 2 left, 3 above.
        """
        room = self.get_room(i, j)
        self.grid.set(*room.door_pos[side], None)
        room.doors[side] = room.neighbors[side].doors[(side + 2) % 4] = True

    def relocate(self, thing: WorldObj, cell: Cell) -> None:
        """Move a loose thing to a free cell."""
        self.grid.set(*map(int, thing.cur_pos), None)
        self.put_obj(thing, *cell)

    def drop_at(self, cell: Cell) -> None:
        """Lay the held thing on a free cell."""
        item, self.carrying = self.carrying, None
        self.put_obj(item, *cell)

    def take(self, thing: WorldObj) -> None:
        """Take a loose thing from the floor into the agent's hand."""
        self.grid.set(*map(int, thing.cur_pos), None)
        self.carrying, thing.cur_pos = thing, np.array([-1, -1])

    def free_cell(self, room: int, rng: np.random.Generator) -> Cell | None:
        """Draw a free cell of the room where a thing blocks neither a doorway nor the way to anything else.

        Parameters
        ----------
        room
            Index of the room.
        rng
            Source of the draw.

        Returns
        -------
        Cell or None
            Column and row; ``None`` where the room has no such cell.
        """
        cells = self._room_cells(room)
        free = {cell for cell in cells if self.grid.get(*cell) is None}
        for index in rng.permutation(len(cells)):
            cell = cells[int(index)]
            if cell in free and not self.is_agent_at(cell) and not self._at_doorway(cell) and self._keeps_way(cell, cells, free):
                return cell
        return None

    def replace_open_subgoal(self, rng: np.random.Generator) -> bool:
        """Put another subgoal in the place of an open one; a house without a task has none and returns False."""
        return False

    def gifts(self) -> set[str]:
        """Return the texts of the subgoals that are reached without an act of the agent's; a house without a task has none."""
        return set()

    def _at_doorway(self, cell: Cell) -> bool:
        return any(self.room_at(*near) < 0 and not self._is_wall(near) for near in self.neighbors(cell))

    def _is_wall(self, cell: Cell) -> bool:
        thing = self.grid.get(*cell)
        return thing is not None and thing.type == "wall"

    def _keeps_way(self, cell: Cell, cells: list[Cell], free: set[Cell]) -> bool:
        """Tell whether, with ``cell`` taken, the rest of the room stays connected and next to everything that stands in it."""
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
