"""``pickup X``: take a thing of this room from the floor, or out of an open box."""

from minigrid.core.actions import Actions

from agents.belief import Belief
from agents.navigation import walk_beside
from agents.skills.base import OK, SkillRun, failed, ground, no_way, not_here
from envs.names import DOOR


def run(belief: Belief, name: str) -> SkillRun:
    """Fails with full hands, for what is not seen here, and where the grip slips."""
    if belief.held is not None:
        return failed(f"already holding {belief.held_name}")
    thing = ground(belief, name) or next(iter(belief.boxed(name, belief.here)), None)
    if thing is None:
        return not_here(belief, name)
    if thing.kind == DOOR:
        return failed("a door cannot be carried")
    wanted = thing.content or thing.identity
    reached = yield from walk_beside(belief, thing.cell)
    if not reached:
        return no_way(belief, {thing.cell})
    if thing.cell not in belief.things:
        return failed(f"{name} is gone")
    yield int(Actions.pickup)
    reason = "too heavy" if _is_furniture(belief, name) and not thing.content else "the grip slipped"
    return OK if belief.held == wanted else failed(reason)


def _is_furniture(belief: Belief, name: str) -> bool:
    """Boxes of the household stay where they are."""
    return belief.unique_names and name.endswith("box")
