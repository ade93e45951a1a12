"""``goto X``: walk into a room, or up to a thing and face it."""

from agents.gridworld.belief import Belief
from agents.gridworld.navigation import walk_beside
from agents.gridworld.skills.base import SkillRun, no_way
from agents.gridworld.skills.grounding import locate, to_room
from agents.world import OK, Outcome, failed


def run(belief: Belief, name: str) -> SkillRun:
    """Walk to the room or thing of that name. Fails where it was never seen, is gone or cannot be reached."""
    if name in belief.room_names:
        return (yield from to_room(belief, name))
    thing = yield from locate(belief, name)
    if isinstance(thing, Outcome):
        return thing
    reached = yield from walk_beside(belief, thing.cell)
    if not reached:
        return no_way(belief, {thing.cell})
    return OK if thing.cell in belief.things else failed(f"{thing.name} is gone")
