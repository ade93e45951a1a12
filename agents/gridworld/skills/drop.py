"""``drop``: put down the held thing in this room, where it blocks no way."""

from collections.abc import Callable

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.navigation import neighbors, search, turn_to, walk_to
from agents.gridworld.skills.base import SkillRun, is_safe_spot
from agents.world import OK, failed
from envs.observation.embodied import Cell


def run(belief: Belief) -> SkillRun:
    """Drop the held thing. Fails with an empty hand, without a free place, and where the grip slips."""
    if belief.held is None:
        return failed("holding nothing")
    spots = drop_spots(belief, is_safe_spot) or drop_spots(belief, _is_free)
    if not spots:
        return failed(f"no free place in {belief.here_name}")
    return (yield from place_at(belief, spots))


def drop_spots(belief: Belief, fits: Callable[[Belief, Cell], bool]) -> dict[Cell, Cell]:
    """Find the nearest place to drop a thing in this room.

    Parameters
    ----------
    belief
        What the agent has seen.
    fits
        Whether a thing may lie on a cell.

    Returns
    -------
    dict
        The cell to stand on with the adjacent cell for the thing; empty where there is none.
    """
    for stand in search(belief):
        if int(belief.room[stand]) != belief.here:
            continue
        for spot in _around(belief, stand):
            if fits(belief, spot):
                return {stand: spot}
    return {}


def _around(belief: Belief, stand: Cell) -> list[Cell]:
    """List the cells next to ``stand``, beginning with the one that the agent would face."""
    near = neighbors(stand)
    return near[belief.direction :] + near[: belief.direction]


def place_at(belief: Belief, spots: dict[Cell, Cell]) -> SkillRun:
    """Walk to the nearest of the cells to stand on, and drop the held thing onto its spot.

    ``spots`` maps each cell to stand on to the cell for the thing.
    """
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
