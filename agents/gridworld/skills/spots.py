"""Where a thing may be left: which cells are free, and which of them the agent can do without.

A thing that lies on a spot is in the way. ``is_safe_spot`` looks at one room and keeps clear of doors; ``is_harmless`` looks at all
that the agent can reach, which is what counts in rooms of a single cell and in corridors.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from agents.gridworld.belief import Belief, Thing
from agents.gridworld.navigation import is_frontier, neighbors, search
from envs.observation.embodied import Cell
from envs.observation.names import EMPTY

Fits = Callable[[Belief, Cell, Cell], bool]
"""Tells whether a thing may lie on a cell (the second) if the agent stands on another (the first) when it drops it."""


def is_safe_spot(belief: Belief, cell: Cell) -> bool:
    """Tell whether a thing on this free cell of the agent's room would block neither a door nor the way to anything else."""
    if int(belief.room[cell]) != belief.here or not _is_free(belief, cell):
        return False
    if any(belief.is_door(near) or (int(belief.room[near]) < 0 and belief.passable(near)) for near in neighbors(cell)):
        return False
    around = set(search(belief, lambda c: int(belief.room[c]) == belief.here and belief.passable(c), start=cell))
    rest = around - {cell}
    if not rest:
        return False
    connected = set(search(belief, lambda c: c in rest, start=next(iter(rest)))) == rest
    things = [near for c in around for near in neighbors(c) if near in belief.things]
    return connected and all(any(near in rest for near in neighbors(c)) for c in [*things, cell])


def is_harmless(belief: Belief, stand: Cell, spot: Cell) -> bool:
    """Tell whether the agent, standing on ``stand``, can still walk up to everything that it can reach with a thing on ``spot``."""
    return _is_free(belief, spot) and not is_frontier(belief, spot) and _harm(belief, stand, spot) == 0


def _harm(belief: Belief, stand: Cell, spot: Cell) -> int:
    """Count the cells and things that the agent, standing on ``stand``, could not walk up to any more with a thing on ``spot``."""
    before = set(search(belief, start=stand))
    after = set(search(belief, lambda cell: cell != spot and belief.passable(cell), start=stand))
    lost = [cell for cell in belief.things if _is_beside(cell, before) and not _is_beside(cell, after)]
    return len(before - after - {spot}) + len(lost)


def drop_spots(belief: Belief) -> dict[Cell, Cell]:
    """Find the best place to drop the held thing: in the agent's room if it has a free cell, else in another one.

    Returns
    -------
    dict
        The cell to stand on with the adjacent cell for the thing; empty where there is none.
    """
    anywhere = list(search(belief))
    return (
        _in_this_room(belief)
        or _least_harmful(belief, _stands(belief, doorways=True), belief.here)
        or _nearest(belief, anywhere, is_harmless)
        or _least_harmful(belief, anywhere)
    )


def _in_this_room(belief: Belief) -> dict[Cell, Cell]:
    """Find the nearest place in the agent's room where a thing is in nobody's way."""
    inside, with_doorways = _stands(belief, doorways=False), _stands(belief, doorways=True)
    return _nearest(belief, inside, lambda b, stand, spot: is_safe_spot(b, spot)) or _nearest(
        belief, with_doorways, lambda b, stand, spot: int(b.room[spot]) == b.here and is_harmless(b, stand, spot)
    )


def room_to_drop(belief: Belief) -> int:
    """Return the index of the nearest room in which the held thing would be in nobody's way; the agent's room if none is known."""
    if _in_this_room(belief):
        return belief.here
    elsewhere = _nearest(belief, list(search(belief)), lambda b, stand, spot: b.room[spot] >= 0 and is_harmless(b, stand, spot))
    return next((int(belief.room[spot]) for spot in elsewhere.values()), belief.here)


def with_taken(belief: Belief, thing: Thing) -> Belief:
    """Return what the agent would believe if it had just picked up the thing."""
    near = neighbors(thing.cell)
    cell = next((cell for cell in search(belief) if cell in near), belief.cell)
    kind, things = belief.kind.copy(), {c: t for c, t in belief.things.items() if c != thing.cell}
    kind[thing.cell] = EMPTY
    room = int(belief.room[cell])
    return replace(belief, kind=kind, things=things, cell=cell, here=room if room >= 0 else belief.here, held=thing.identity)


def _stands(belief: Belief, doorways: bool) -> list[Cell]:
    """List the cells of the agent's room that it can walk to, nearest first; ``doorways`` adds those beside the room."""
    rooms = (belief.here, -1) if doorways else (belief.here,)
    return [cell for cell in search(belief) if int(belief.room[cell]) in rooms]


def _nearest(belief: Belief, stands: list[Cell], fits: Fits) -> dict[Cell, Cell]:
    """Return the first cell to stand on that has a fitting cell beside it, with that cell."""
    pair = next(((stand, spot) for stand, spot in _pairs(belief, stands) if fits(belief, stand, spot)), None)
    return dict([pair]) if pair else {}


def _least_harmful(belief: Belief, stands: list[Cell], room: int | None = None) -> dict[Cell, Cell]:
    """Return the cell to stand on and the free cell beside it (in ``room``, if named) that cut the agent off from the least."""
    pairs = [(stand, spot) for stand, spot in _pairs(belief, stands) if _is_free(belief, spot)]
    pairs = [(stand, spot) for stand, spot in pairs if room is None or int(belief.room[spot]) == room]
    return dict([min(pairs, key=lambda pair: _harm(belief, *pair))]) if pairs else {}


def _pairs(belief: Belief, stands: list[Cell]) -> Iterator[tuple[Cell, Cell]]:
    """List each cell to stand on with each cell beside it, beginning with the one that the agent would face."""
    for stand in stands:
        near = neighbors(stand)
        yield from ((stand, spot) for spot in near[belief.direction :] + near[: belief.direction])


def _is_beside(cell: Cell, reach: set[Cell]) -> bool:
    return any(near in reach for near in neighbors(cell))


def _is_free(belief: Belief, cell: Cell) -> bool:
    return belief.passable(cell) and cell not in belief.things
