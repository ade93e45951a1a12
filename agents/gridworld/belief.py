"""The agent's belief: a map of what it has seen.

Only observations change it; it never reads the simulator. Its coordinates are the agent's odometry plus ``MARGIN``, so that cells
in view beyond the edge of the house stay inside the arrays.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from minigrid.core.actions import Actions
from minigrid.core.constants import DIR_TO_VEC

from envs.household.containers import decode_content
from envs.observation.embodied import Cell, view_cells
from envs.observation.names import BOX, CLOSED, DOOR, EMPTY, LOCKED, OPEN, THINGS, UNSEEN, WALL, thing_name

MARGIN = 8
"""Cells between the edge of the arrays and the house."""
SIZE = 48
"""Side of the arrays in cells."""
Identity = tuple[int, int]
"""Minigrid's codes of a thing's type and colour."""
STEPS: tuple[Cell, ...] = tuple((int(x), int(y)) for x, y in DIR_TO_VEC)
"""One step east, south, west and north."""


@dataclass(frozen=True)
class Thing:
    """A door, key, ball or box as it was last seen."""

    kind: int
    """Minigrid's code of its type."""
    color: int
    """Minigrid's code of its colour."""
    state: int
    """State of a door, or of a box (see ``envs.household.containers``); 0 for other things."""
    cell: Cell
    """Where it lies."""
    tags: tuple[str, ...] = ()
    """Where it lay from the agent's first pose: ``left``, ``right``, ``front``, ``behind``."""

    @property
    def identity(self) -> Identity:
        """Codes of type and colour."""
        return self.kind, self.color

    @property
    def name(self) -> str:
        """Its name, such as ``red ball``."""
        return thing_name(self.kind, self.color)

    @property
    def content(self) -> Identity | None:
        """Codes of type and colour of what an open box holds; ``None`` where nothing is seen inside."""
        return decode_content(self.state) if self.kind == BOX else None


@dataclass
class Belief:
    """What the agent believes of the map, its own pose and its hand.

    Arrays have shape (SIZE, SIZE) and are indexed by cell. "News" are what ``fresh`` and ``gone`` hold.
    """

    room_names: tuple[str, ...]
    """Names of the rooms by index."""
    unique_names: bool = False
    """Whether no two things of this world share type and colour."""
    kind: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.int16))
    """Minigrid's code of what is on each cell; ``UNSEEN`` where the cell was never seen."""
    color: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.int16))
    """Minigrid's code of the colour of what is on each cell."""
    state: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.int16))
    """State of the door or box on each cell; 0 elsewhere."""
    room: np.ndarray[Any, Any] = field(default_factory=lambda: np.full((SIZE, SIZE), -1, np.int16))
    """Index of each cell's room; -1 for walls, doorways and cells never seen."""
    seen_at: np.ndarray[Any, Any] = field(default_factory=lambda: np.full((SIZE, SIZE), -1, np.int32))
    """Value of ``step`` when each cell was last in view; 0 where an inventory alone tells of it, -1 where nothing does."""
    things: dict[Cell, Thing] = field(default_factory=dict)
    """Things by the cell on which they are believed to be."""
    cell: Cell = (0, 0)
    """The agent's cell."""
    direction: int = 0
    """Where the agent looks: 0 east, 1 south, 2 west, 3 north."""
    here: int = -1
    """Index of the room that the agent is in, or was in before it stepped into a doorway; -1 before the first observation."""
    held: Identity | None = None
    """What the agent holds."""
    step: int = 0
    """Number of observations taken in."""
    start: tuple[Cell, int, int] | None = None
    """The agent's first pose: cell, direction and room."""
    fresh: dict[Cell, Thing] = field(default_factory=dict)
    """Things by cell that are new or have changed since ``clear_news``."""
    gone: dict[str, None] = field(default_factory=dict)
    """Names of things that have vanished since ``clear_news``, in order (an ordered set)."""
    in_view: list[Cell] = field(default_factory=list)
    """Cells in view with a thing on them."""
    surprises: set[str] = field(default_factory=set)
    """Names of things that were not as believed, until the loop clears them."""
    held_tags: tuple[str, ...] = ()
    """Tags of the held thing."""
    tags_of_lost: dict[Identity, tuple[str, ...]] = field(default_factory=dict)
    """Tags of things that have vanished from where they were."""
    dropping: bool = False
    """Whether the last action was a drop."""
    named: dict[Cell, str] = field(default_factory=dict)
    """Room by which the thing on a cell was last reported."""

    def take_inventory(self, image: np.ndarray[Any, Any], rooms: np.ndarray[Any, Any]) -> None:
        """Believe an inventory, before the first observation. Nothing of it is news; what is seen later may contradict it.

        Parameters
        ----------
        image
            Minigrid's codes of type, colour and state of each cell, shape (width, height, 3).
        rooms
            Index of the room of each cell, -1 for walls and doorways, shape (width, height).
        """
        area = tuple(slice(MARGIN, MARGIN + side) for side in rooms.shape)
        self.kind[area], self.color[area], self.state[area] = (image[..., channel] for channel in range(3))
        self.room[area], self.seen_at[area] = rooms, 0
        for x, y in np.argwhere(np.isin(self.kind, sorted(THINGS))).tolist():
            self.things[x, y] = Thing(int(self.kind[x, y]), int(self.color[x, y]), int(self.state[x, y]), (x, y))
        self.named = {cell: self.room_of(thing) for cell, thing in self.things.items()}

    def update(self, observation: dict[str, Any], action: int | None = None) -> None:
        """Take in an observation.

        Parameters
        ----------
        observation
            As ``envs.observation.embodied`` describes it.
        action
            The action before it; ``None`` at the start.
        """
        self.step += 1
        self.dropping = action == Actions.drop
        image = observation["image"]
        x, y = (int(v) for v in observation["pose"])
        self.direction = int(observation["direction"])
        view = image.shape[0]
        visible = image[..., 0] != UNSEEN
        visible[view // 2, view - 1] = False
        cells = view_cells(x, y, self.direction, view)[visible] + MARGIN
        self._move(x + MARGIN, y + MARGIN, int(observation["rooms"][view // 2, view - 1]))
        self._take(cells, image[visible].astype(np.int16), observation["rooms"][visible])
        self._hold(image[view // 2, view - 1])

    def _move(self, x: int, y: int, room: int) -> None:
        self.cell = (x, y)
        if room >= 0:
            self.here = room
            self.room[x, y] = room
        if self.kind[x, y] != DOOR:
            self.kind[x, y] = EMPTY
            self._forget(self.cell)
        self.seen_at[x, y] = self.step

    def _take(self, cells: np.ndarray[Any, Any], codes: np.ndarray[Any, Any], rooms: np.ndarray[Any, Any]) -> None:
        """Write the visible cells into the map and note what has changed."""
        xs, ys = cells[:, 0], cells[:, 1]
        old = np.stack((self.kind[xs, ys], self.color[xs, ys], self.state[xs, ys]), axis=1)
        changed = (old != codes).any(axis=1)
        self.room[xs, ys] = np.where(rooms >= 0, rooms, self.room[xs, ys])
        self.seen_at[xs, ys] = self.step
        if self.here < 0:  # a doorway, where an episode may begin, is in no room: take a room in view
            self.here = next(iter(self._rooms_around(self.cell)), int(rooms.max()))
        if self.start is None:
            self.start = (self.cell, self.direction, self.here)
        if changed.any():
            self.kind[xs, ys], self.color[xs, ys], self.state[xs, ys] = codes[:, 0], codes[:, 1], codes[:, 2]
            self._note(cells[changed], codes[changed])
        self.in_view = [cell for cell in map(tuple, cells.tolist()) if cell in self.things]

    def _note(self, cells: np.ndarray[Any, Any], codes: np.ndarray[Any, Any]) -> None:
        lost: list[Thing] = []
        for (x, y), (kind, color, state) in zip(cells.tolist(), codes.tolist(), strict=True):
            before = self.things.get((x, y))
            if before is not None and (before.kind, before.color) != (kind, color):
                lost.append(before)
                self._forget((x, y))
            elif before is not None and kind == DOOR and state == LOCKED:
                self.surprises.add(before.name)
            if kind in THINGS:
                self._see(Thing(kind, color, state, (x, y), self._tags_of((kind, color), (x, y), before)))
        for thing in lost:
            self.tags_of_lost[thing.identity] = thing.tags
            if not any(other.identity == thing.identity for other in self.fresh.values()):
                self.gone[thing.name] = None
                self.surprises.add(thing.name)

    def _see(self, thing: Thing) -> None:
        """Add a new or changed thing; where names are unique, forget where else it was believed to be."""
        self.gone.pop(thing.name, None)
        if self.unique_names:
            for cell in [c for c, t in self.things.items() if t.identity == thing.identity and c != thing.cell]:
                self._forget(cell, erase=True)
                self.surprises.add(thing.name)
        self.things[thing.cell] = self.fresh[thing.cell] = thing
        self.named.pop(thing.cell, None)

    def _forget(self, cell: Cell, erase: bool = False) -> None:
        self.things.pop(cell, None)
        self.fresh.pop(cell, None)
        if erase:
            self.kind[cell] = EMPTY

    def _hold(self, code: Any) -> None:
        """Take in the held thing, which minigrid shows on the agent's cell; one just picked up is neither gone nor a surprise."""
        held = (int(code[0]), int(code[1])) if int(code[0]) in THINGS else None
        if held is not None and held != self.held:
            self.held_tags = self.tags_of_lost.get(held, ())
            self.gone.pop(thing_name(*held), None)
            self.surprises.discard(thing_name(*held))
            if self.unique_names:
                for cell in [c for c, t in self.things.items() if t.identity == held]:
                    self._forget(cell, erase=True)
        if self.held is not None and held is None and not self.dropping:
            self.surprises.add(self.held_name)
        self.held = held

    def _tags_of(self, identity: Identity, cell: Cell, before: Thing | None) -> tuple[str, ...]:
        """Return the tags of the thing on a cell; a thing keeps its tags when the agent carries it here."""
        if before is not None and before.identity == identity:
            return before.tags
        return self.held_tags if self.dropping and identity == self.held else self._tags(cell)

    def _tags(self, cell: Cell) -> tuple[str, ...]:
        """Return where a cell of the first room lies from the first pose; nothing for cells of other rooms."""
        if self.start is None or self.unique_names:
            return ()
        (x, y), direction, room = self.start
        if room not in self._rooms_around(cell):
            return ()
        (fx, fy), dx, dy = STEPS[direction], cell[0] - x, cell[1] - y
        ahead, right = dx * fx + dy * fy, -dx * fy + dy * fx
        sides = (("left", right < 0), ("right", right > 0), ("front", ahead > 0), ("behind", ahead < 0))
        return tuple(tag for tag, holds in sides if holds)

    def _rooms_around(self, cell: Cell) -> list[int]:
        """Return the cell's room; for a door or a doorway, the known rooms beside it."""
        own = int(self.room[cell])
        if own >= 0:
            return [own]
        return [int(r) for r in (self.room[cell[0] + dx, cell[1] + dy] for dx, dy in STEPS) if r >= 0]

    # ---- questions -------------------------------------------------------------------------------------------------------------

    def rooms_of(self, thing: Thing) -> list[int]:
        """Return the indices of the thing's rooms; a door is in the known rooms on both sides."""
        return self._rooms_around(thing.cell)

    def rooms_beside(self, thing: Thing) -> list[int]:
        """Return the indices of the rooms that a doorway next to the thing leads to."""
        around = [(thing.cell[0] + dx, thing.cell[1] + dy) for dx, dy in STEPS]
        ways = [c for c in around if int(self.room[c]) < 0 and int(self.kind[c]) not in (UNSEEN, WALL)]
        return [room for way in ways for room in self._rooms_around(way)]

    def place_of(self, thing: Thing) -> str:
        """Return the room by which the thing was last reported, or would be reported now."""
        return self.named.get(thing.cell) or self.room_of(thing)

    def room_of(self, thing: Thing) -> str:
        """Return the room to name the thing by: the agent's room if the thing is in it, else the first known one."""
        rooms = self.rooms_of(thing)
        return self.room_names[self.here if self.here in rooms or not rooms else rooms[0]]

    @property
    def here_name(self) -> str:
        """Name of the room that the agent is in, or was in before it stepped into a doorway."""
        return self.room_names[self.here] if self.here >= 0 else "doorway"

    @property
    def held_name(self) -> str:
        """Name of the held thing; empty where the agent holds nothing."""
        return thing_name(*self.held) if self.held else ""

    def holds(self, description: str) -> bool:
        """Tell whether the agent holds a thing of this description."""
        return self.held is not None and matches(Thing(*self.held, 0, self.cell, self.held_tags), description)

    def known_rooms(self) -> list[int]:
        """List the indices of the rooms of which a cell was seen."""
        return sorted({int(r) for r in np.unique(self.room) if r >= 0})

    def cells_of(self, room: int) -> set[Cell]:
        """Return the cells of a room that were seen."""
        return {(int(x), int(y)) for x, y in zip(*(self.room == room).nonzero(), strict=True)}

    def find(self, description: str, room: int | None = None) -> list[Thing]:
        """Find things by their description.

        Parameters
        ----------
        description
            ``[color] type [at loc ...]``, such as ``red ball`` or ``object at left``.
        room
            Index of the room to look in; ``None`` for all rooms.

        Returns
        -------
        list of Thing
            What fits, nearest first.
        """
        found = [t for t in self.things.values() if matches(t, description) and (room is None or room in self.rooms_of(t))]
        return sorted(found, key=lambda t: (abs(t.cell[0] - self.cell[0]) + abs(t.cell[1] - self.cell[1]), t.cell))

    def boxed(self, description: str, room: int | None = None) -> list[Thing]:
        """Find open boxes that hold a thing of this description; ``room`` (an index) limits the search to one room."""
        boxes = [t for t in self.things.values() if t.content is not None and (room is None or room in self.rooms_of(t))]
        return [t for t in boxes if t.content and matches(Thing(*t.content, 0, t.cell), description)]

    def is_door(self, cell: Cell, *states: int) -> bool:
        """Tell whether a door is on the cell, and is in one of these states if any are given."""
        return bool(self.kind[cell] == DOOR) and (not states or int(self.state[cell]) in states)

    def passable(self, cell: Cell) -> bool:
        """Tell whether the agent can walk onto the cell; it may have to open a closed door."""
        kind = int(self.kind[cell])
        return kind not in (UNSEEN, WALL) and (kind not in THINGS or (kind == DOOR and int(self.state[cell]) in (OPEN, CLOSED)))

    def locked_doors(self) -> list[Thing]:
        """List the doors believed to be locked."""
        return [t for t in self.things.values() if t.kind == DOOR and t.state == LOCKED]

    def clear_news(self) -> None:
        """Clear the news once they are reported, and note by which room each thing was reported."""
        self.named |= {thing.cell: self.room_of(thing) for thing in self.fresh.values()}
        self.fresh.clear()
        self.gone.clear()


def matches(thing: Thing, description: str) -> bool:
    """Tell whether a thing fits ``[color] type [at loc ...]``; the type ``object`` fits everything but doors."""
    words = [word for word in description.split() if word != "at"]
    color, _, kind = thing.name.partition(" ")
    kinds = {kind} if thing.kind == DOOR else {kind, "object"}
    return any(word in kinds for word in words) and all(word == color or word in kinds or word in thing.tags for word in words)
