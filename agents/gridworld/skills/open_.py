"""``open X``: open a door or a box; one that is already open is closed and opened again."""

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.navigation import walk_beside
from agents.gridworld.skills.base import SkillRun, no_way
from agents.gridworld.skills.grounding import locate
from agents.world import OK, Outcome, failed
from envs.household.containers import BOX_CLOSED
from envs.observation.names import BOX, CLOSED, DOOR, LOCKED


def run(belief: Belief, name: str) -> SkillRun:
    """Open the door or box of that name. Fails where it is not there, cannot be opened or is locked, and where the grip slips."""
    thing = yield from locate(belief, name)
    if isinstance(thing, Outcome):
        return thing
    if thing.kind not in (DOOR, BOX):
        return failed(f"{thing.name} cannot be opened")
    reached = yield from walk_beside(belief, thing.cell)
    if not reached:
        return no_way(belief, {thing.cell})
    if belief.is_door(thing.cell, LOCKED):
        return failed(f"{thing.name} locked")
    closed = CLOSED if thing.kind == DOOR else BOX_CLOSED
    if int(belief.state[thing.cell]) != closed:
        yield int(Actions.toggle)
    yield int(Actions.toggle)
    if thing.kind == BOX and not belief.unique_names:
        return OK  # a level's box vanishes, and what was in it lies there instead; it may be a box like it
    return failed("the grip slipped") if int(belief.state[thing.cell]) == closed and thing.cell in belief.things else OK
