"""``unlock X``: unlock a door of this room with the key of its colour in hand; the door then stands open."""

from minigrid.core.actions import Actions

from agents.belief import Belief
from agents.navigation import walk_beside
from agents.skills.base import OK, SkillRun, failed, no_way, not_here
from envs.names import DOOR, KEY, LOCKED, thing_name


def run(belief: Belief, name: str) -> SkillRun:
    """Fails without the key, for what is not here, no door or not locked, and where the grip slips."""
    found = belief.find(name, belief.here)
    locked = [thing for thing in found if belief.is_door(thing.cell, LOCKED)]
    if not locked:
        return failed(f"{name} is not locked") if any(thing.kind == DOOR for thing in found) else not_here(belief, name)
    door = next((thing for thing in locked if belief.held == (KEY, thing.color)), None)
    if door is None:
        return failed(f"needs {thing_name(KEY, locked[0].color)}")
    reached = yield from walk_beside(belief, door.cell)
    if not reached:
        return no_way(belief, {door.cell})
    yield int(Actions.toggle)
    return failed("the grip slipped") if belief.is_door(door.cell, LOCKED) else OK
