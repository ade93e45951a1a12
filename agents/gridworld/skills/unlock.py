"""``unlock X``: unlock a door with the key of its colour; the door then stands open."""

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.navigation import walk_beside
from agents.gridworld.skills.base import SkillRun, no_way
from agents.gridworld.skills.grounding import locate, split_place
from agents.world import OK, Outcome, failed
from envs.observation.names import KEY, LOCKED, thing_name


def run(belief: Belief, name: str) -> SkillRun:
    """Unlock the door of that name. Fails without its key in hand, where no locked door is there, and where the grip slips."""
    thing = yield from locate(belief, name)
    if isinstance(thing, Outcome):
        return thing
    description, place = split_place(belief, name)
    found = belief.find(description, belief.room_names.index(place) if place else belief.here)
    locked = [door for door in found if belief.is_door(door.cell, LOCKED)]
    if not locked:
        return failed(f"{thing.name} is not locked")
    door = next((door for door in locked if belief.held == (KEY, door.color)), None)
    if door is None:
        return failed(f"needs {thing_name(KEY, locked[0].color)}")
    reached = yield from walk_beside(belief, door.cell)
    if not reached:
        return no_way(belief, {door.cell})
    yield int(Actions.toggle)
    return failed("the grip slipped") if belief.is_door(door.cell, LOCKED) else OK
