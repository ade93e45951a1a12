"""``drop``: put down the held thing in this room, where it blocks no way; beside it where the room has no free cell."""

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.navigation import turn_to, walk_to
from agents.gridworld.skills.base import SkillRun
from agents.gridworld.skills.spots import drop_spots
from agents.world import OK, failed
from envs.observation.embodied import Cell


def run(belief: Belief) -> SkillRun:
    """Drop the held thing. Fails with an empty hand, without a free place, and where the grip slips."""
    if belief.held is None:
        return failed("holding nothing")
    spots = drop_spots(belief)
    if not spots:
        return failed(f"no free place in {belief.here_name}")
    return (yield from place_at(belief, spots))


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
