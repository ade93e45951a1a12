"""``drop``: put the held thing down in this room, where it blocks no way."""

from collections.abc import Callable

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief, Cell
from agents.gridworld.navigation import neighbors, search, turn_to, walk_to
from agents.gridworld.skills.base import SkillRun, is_safe_spot
from agents.world import OK, failed


def run(belief: Belief) -> SkillRun:
    """Fails with empty hands, without a free place, and where the drop slips."""
    if belief.held is None:
        return failed("holding nothing")
    spots = drop_spots(belief, is_safe_spot) or drop_spots(belief, _is_free)
    if not spots:
        return failed(f"no free place in {belief.here_name}")
    return (yield from place_at(belief, spots))


def drop_spots(belief: Belief, fits: Callable[[Belief, Cell], bool]) -> dict[Cell, Cell]:
    """Cells of this room to stand on, each with an adjacent cell that ``fits`` a thing; the nearest standing cell only."""
    for stand in search(belief):
        if int(belief.room[stand]) != belief.here:
            continue
        for spot in _around(belief, stand):
            if fits(belief, spot):
                return {stand: spot}
    return {}


def _around(belief: Belief, stand: Cell) -> list[Cell]:
    """Cells next to ``stand``, the one that the agent faces first."""
    near = neighbors(stand)
    return near[belief.direction :] + near[: belief.direction]


def place_at(belief: Belief, spots: dict[Cell, Cell]) -> SkillRun:
    """Walk to the nearest standing cell and drop onto its spot."""
    reached = yield from walk_to(belief, spots)
    if not reached:
        return failed("no way to a free place")
    yield from turn_to(belief, spots[belief.cell])
    if belief.held is None:
        return failed("holding nothing")
    yield int(Actions.drop)
    return OK if belief.held is None else failed("the grip slipped")


def _is_free(belief: Belief, cell: Cell) -> bool:
    return belief.passable(cell) and not belief.is_door(cell) and int(belief.room[cell]) == belief.here
