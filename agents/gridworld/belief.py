"""What the agent believes: a map of what it has SEEN, kept up by its observations and by nothing else.

The belief never reads the simulator. Coordinates are the agent's odometry, shifted by ``MARGIN`` so that views over the edge of the
house stay inside the arrays. Cells that were never seen are ``UNSEEN``.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from minigrid.core.actions import Actions
from minigrid.core.constants import DIR_TO_VEC

from envs.household.containers import decode_content
from envs.observation.embodied import view_cells
from envs.observation.names import BOX, CLOSED, DOOR, EMPTY, LOCKED, OPEN, THINGS, UNSEEN, WALL, thing_name

MARGIN = 8
SIZE = 48
Cell = tuple[int, int]
Identity = tuple[int, int]
STEPS: tuple[Cell, ...] = tuple((int(x), int(y)) for x, y in DIR_TO_VEC)


@dataclass(frozen=True)
class Thing:
    """A door, key, ball or box at a cell. ``tags`` say where it lay from the pose at the start (``left``, ``front``, ...)."""

    kind: int
    color: int
    state: int
    cell: Cell
    tags: tuple[str, ...] = ()

    @property
    def identity(self) -> Identity:
        """Kind and colour."""
        return self.kind, self.color

    @property
    def name(self) -> str:
        """Such as ``red ball``."""
        return thing_name(self.kind, self.color)

    @property
    def content(self) -> Identity | None:
        """Kind and colour of what the open box is seen to hold."""
        return decode_content(self.state) if self.kind == BOX else None


@dataclass
class Belief:
    """The map, the pose and the hand. ``unique_names``: no two things of this world share kind and colour.

    ``fresh`` and ``gone`` collect what is new and what has vanished since ``clear_news`` was called last.
    """

    room_names: tuple[str, ...]
    unique_names: bool = False
    kind: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.int16))
    color: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.int16))
    state: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros((SIZE, SIZE), np.int16))
    room: np.ndarray[Any, Any] = field(default_factory=lambda: np.full((SIZE, SIZE), -1, np.int16))
    seen_at: np.ndarray[Any, Any] = field(default_factory=lambda: np.full((SIZE, SIZE), -1, np.int32))
    things: dict[Cell, Thing] = field(default_factory=dict)
    cell: Cell = (0, 0)
    direction: int = 0
    here: int = -1
    held: Identity | None = None
    step: int = 0
    version: int = 0
    start: tuple[Cell, int, int] | None = None
    fresh: dict[Cell, Thing] = field(default_factory=dict)
    gone: dict[str, None] = field(default_factory=dict)
    in_view: list[Cell] = field(default_factory=list)
    surprises: set[str] = field(default_factory=set)
    held_tags: tuple[str, ...] = ()
    tags_of_lost: dict[Identity, tuple[str, ...]] = field(default_factory=dict)
    dropping: bool = False
    named: dict[Cell, str] = field(default_factory=dict)

    def update(self, observation: dict[str, Any], action: int | None = None) -> None:
        """Take in one observation (see ``envs.observation.embodied``) that followed the agent's ``action``."""
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
        if self.here < 0:  # an episode may begin in a doorway, which is in no room: the agent counts as in the one that it sees
            self.here = next(iter(self._rooms_around(self.cell)), int(rooms.max()))
        if self.start is None:
            self.start = (self.cell, self.direction, self.here)
        if changed.any():
            self.version += 1
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
        """A new or changed thing; where names are unique, what was believed of it elsewhere is dropped."""
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
            self.kind[cell], self.version = EMPTY, self.version + 1

    def _hold(self, code: Any) -> None:
        """What the agent's own cell shows is what it holds; a thing that it has just picked up is neither gone nor a surprise."""
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
        """The tags of what is seen at a cell: those it had, also where the agent has carried it here."""
        if before is not None and before.identity == identity:
            return before.tags
        return self.held_tags if self.dropping and identity == self.held else self._tags(cell)

    def _tags(self, cell: Cell) -> tuple[str, ...]:
        """Where a cell of the first room lies from the pose at the start; nothing for other cells."""
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
        """Known rooms of a cell, or of its neighbours where it is a door or a doorway."""
        own = int(self.room[cell])
        if own >= 0:
            return [own]
        return [int(r) for r in (self.room[cell[0] + dx, cell[1] + dy] for dx, dy in STEPS) if r >= 0]

    # ---- questions -------------------------------------------------------------------------------------------------------------

    def rooms_of(self, thing: Thing) -> list[int]:
        """Rooms in which the thing is believed to be (a door belongs to the rooms on its known sides)."""
        return self._rooms_around(thing.cell)

    def rooms_beside(self, thing: Thing) -> list[int]:
        """Rooms on the other side of a doorway that the thing stands right behind."""
        around = [(thing.cell[0] + dx, thing.cell[1] + dy) for dx, dy in STEPS]
        ways = [c for c in around if int(self.room[c]) < 0 and int(self.kind[c]) not in (UNSEEN, WALL)]
        return [room for way in ways for room in self._rooms_around(way)]

    def place_of(self, thing: Thing) -> str:
        """The room by which the thing was last spoken of; the one by which it would be now where it was not spoken of yet."""
        return self.named.get(thing.cell) or self.room_of(thing)

    def room_of(self, thing: Thing) -> str:
        """The room by which the thing is named: this one if it belongs here, else the first known one."""
        rooms = self.rooms_of(thing)
        return self.room_names[self.here if self.here in rooms or not rooms else rooms[0]]

    @property
    def here_name(self) -> str:
        """Name of the room that the agent is in, or was in last while it stands in a doorway."""
        return self.room_names[self.here] if self.here >= 0 else "doorway"

    @property
    def held_name(self) -> str:
        """Name of the held thing; empty where the hand is empty."""
        return thing_name(*self.held) if self.held else ""

    def known_rooms(self) -> list[int]:
        """Rooms of which at least one cell was seen."""
        return sorted({int(r) for r in np.unique(self.room) if r >= 0})

    def cells_of(self, room: int) -> set[Cell]:
        """All cells of a room that were seen."""
        return {(int(x), int(y)) for x, y in zip(*(self.room == room).nonzero(), strict=True)}

    def find(self, description: str, room: int | None = None) -> list[Thing]:
        """Things that match ``[color] type [at loc ...]``, nearest first; only those of ``room`` where it is given."""
        found = [t for t in self.things.values() if matches(t, description) and (room is None or room in self.rooms_of(t))]
        return sorted(found, key=lambda t: (abs(t.cell[0] - self.cell[0]) + abs(t.cell[1] - self.cell[1]), t.cell))

    def boxed(self, description: str, room: int | None = None) -> list[Thing]:
        """Open boxes in which a thing of this description is seen."""
        boxes = [t for t in self.things.values() if t.content is not None and (room is None or room in self.rooms_of(t))]
        return [t for t in boxes if t.content and matches(Thing(*t.content, 0, t.cell), description)]

    def is_door(self, cell: Cell, *states: int) -> bool:
        """Whether a door in one of these states (default: any) is believed to be at the cell."""
        return bool(self.kind[cell] == DOOR) and (not states or int(self.state[cell]) in states)

    def passable(self, cell: Cell) -> bool:
        """Whether the agent can walk onto the cell, opening a closed door if need be."""
        kind = int(self.kind[cell])
        return kind not in (UNSEEN, WALL) and (kind not in THINGS or (kind == DOOR and int(self.state[cell]) in (OPEN, CLOSED)))

    def locked_doors(self) -> list[Thing]:
        """Doors believed to be locked."""
        return [t for t in self.things.values() if t.kind == DOOR and t.state == LOCKED]

    def clear_news(self) -> None:
        """Forget what has been reported as new or gone, and remember by which room each thing was reported."""
        self.named |= {thing.cell: self.room_of(thing) for thing in self.fresh.values()}
        self.fresh.clear()
        self.gone.clear()


def matches(thing: Thing, description: str) -> bool:
    """Whether a thing fits ``[color] type [at loc ...]``; ``object`` is the type of everything that is not a door."""
    words = [word for word in description.split() if word != "at"]
    color, _, kind = thing.name.partition(" ")
    kinds = {kind} if thing.kind == DOOR else {kind, "object"}
    return any(word in kinds for word in words) and all(word == color or word in kinds or word in thing.tags for word in words)
