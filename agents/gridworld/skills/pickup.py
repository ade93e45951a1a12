"""``pickup X``: take a thing from the floor, or out of an open box."""

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.navigation import walk_beside
from agents.gridworld.skills.base import SkillRun, no_way
from agents.gridworld.skills.grounding import locate
from agents.world import OK, Outcome, failed
from envs.observation.names import BOX, DOOR


def run(belief: Belief, name: str) -> SkillRun:
    """Pick up the thing of that name. Fails with a full hand, where the thing is not there, and where the grip slips."""
    if belief.held is not None:
        return failed(f"already holding {belief.held_name}")
    thing = yield from locate(belief, name, in_boxes=True)
    if isinstance(thing, Outcome):
        return thing
    if thing.kind == DOOR:
        return failed("a door cannot be carried")
    wanted = thing.content or thing.identity
    reached = yield from walk_beside(belief, thing.cell)
    if not reached:
        return no_way(belief, {thing.cell})
    if thing.cell not in belief.things:
        return failed(f"{thing.name} is gone")
    yield int(Actions.pickup)
    furniture = thing.kind == BOX and thing.content is None and belief.unique_names
    return OK if belief.held == wanted else failed("too heavy" if furniture else "the grip slipped")
