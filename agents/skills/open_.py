"""``open X``: open a door or a box of this room. What stands open already is closed and opened again."""

from minigrid.core.actions import Actions

from agents.belief import Belief
from agents.navigation import walk_beside
from agents.skills.base import OK, SkillRun, failed, ground, no_way, not_here
from envs.containers import BOX_CLOSED
from envs.names import BOX, CLOSED, DOOR, LOCKED


def run(belief: Belief, name: str) -> SkillRun:
    """Fails for what is not here, cannot be opened, or is locked, and where the grip slips."""
    thing = ground(belief, name)
    if thing is None:
        return not_here(belief, name)
    if thing.kind not in (DOOR, BOX):
        return failed(f"{name} cannot be opened")
    reached = yield from walk_beside(belief, thing.cell)
    if not reached:
        return no_way(belief, {thing.cell})
    if belief.is_door(thing.cell, LOCKED):
        return failed(f"{thing.name} locked")
    closed = CLOSED if thing.kind == DOOR else BOX_CLOSED
    if int(belief.state[thing.cell]) != closed:
        yield int(Actions.toggle)
    yield int(Actions.toggle)
    return failed("the grip slipped") if int(belief.state[thing.cell]) == closed and thing.cell in belief.things else OK
