"""``goto X``: walk into a room, or up to a thing of this room and face it."""

from agents.belief import Belief
from agents.navigation import walk_beside, walk_to
from agents.skills.base import OK, SkillRun, failed, ground, no_way, not_here


def run(belief: Belief, name: str) -> SkillRun:
    """Rooms are known by name anywhere, things only in this room."""
    if name in belief.room_names:
        return (yield from _to_room(belief, name))
    thing = ground(belief, name)
    if thing is None:
        return not_here(belief, name)
    reached = yield from walk_beside(belief, thing.cell)
    if not reached:
        return no_way(belief, {thing.cell})
    return OK if thing.cell in belief.things else failed(f"{name} is gone")


def _to_room(belief: Belief, name: str) -> SkillRun:
    index = belief.room_names.index(name)
    if index not in belief.known_rooms():
        return failed(f"{name} was never seen")
    if belief.here == index and int(belief.room[belief.cell]) == index:
        return OK
    cells = {(int(x), int(y)) for x, y in zip(*(belief.room == index).nonzero(), strict=True)}
    goals = {cell for cell in cells if belief.passable(cell)}
    reached = yield from walk_to(belief, goals)
    return OK if reached else no_way(belief, goals)
