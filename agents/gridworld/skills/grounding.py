"""How the names in a plan are grounded: ``red ball in kitchen`` is a thing and its room; without a room, this one is meant.

Where a thing is, is for the planner to say: a name without its room is not looked up anywhere else, and one with the wrong room
costs the way there.
"""

from collections.abc import Generator

from agents.gridworld.belief import Belief, Thing
from agents.gridworld.navigation import walk_to
from agents.gridworld.skills.base import SkillRun, no_way
from agents.world import OK, Outcome, failed
from envs.observation.names import DOOR


def split_place(belief: Belief, name: str) -> tuple[str, str]:
    """The description and the room of a name; the room is empty where none is named."""
    description, found, room = name.rpartition(" in ")
    return (description, room) if found and room in belief.room_names else (name, "")


def ground(belief: Belief, name: str) -> Thing | None:
    """The thing that fits the name in its room: one that stands in front of or behind a doorway first, then the nearest.

    Of several that share a name, the one in the way is meant; where none is, any of them will do.
    """
    description, place = split_place(belief, name)
    room = belief.room_names.index(place) if place else belief.here
    near = [thing for thing in belief.find(description) if room in belief.rooms_of(thing) + belief.rooms_beside(thing)]
    return min(near, key=lambda thing: thing.kind == DOOR or not belief.rooms_beside(thing), default=None)


def boxed(belief: Belief, name: str) -> Thing | None:
    """The open box of the room in which a thing of this name is seen."""
    description, place = split_place(belief, name)
    return next(iter(belief.boxed(description, belief.room_names.index(place) if place else belief.here)), None)


def locate(belief: Belief, name: str, in_boxes: bool = False) -> Generator[int, None, Thing | Outcome]:
    """The thing of that name. Where none is known in the room that it names, go there and look; a failure if that does not help."""
    description, place = split_place(belief, name)
    for _ in range(2):
        thing = ground(belief, name) or (boxed(belief, name) if in_boxes else None)
        if thing is not None:
            return thing
        if not place or place == belief.here_name:
            break
        arrived = yield from to_room(belief, place)
        if not arrived.succeeded:
            return arrived
    return failed(f"no {description} seen in {place or belief.here_name}")


def to_room(belief: Belief, name: str) -> SkillRun:
    """Walk into a room of which something was seen."""
    index = belief.room_names.index(name)
    if index not in belief.known_rooms():
        return failed(f"{name} was never seen")
    if belief.here == index and int(belief.room[belief.cell]) == index:
        return OK
    goals = {cell for cell in belief.cells_of(index) if belief.passable(cell)}
    reached = yield from walk_to(belief, goals)
    return OK if reached else no_way(belief, goals)
