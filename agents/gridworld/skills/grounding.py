"""Grounding: which thing a name in a plan means.

``red ball in kitchen`` is a thing and its room; a name without a room means a thing in the agent's room. Only the named room is
searched: a plan that names the wrong room costs the way there.
"""

from collections.abc import Collection, Generator

from agents.gridworld.belief import Belief, Thing
from agents.gridworld.names import split_name
from agents.gridworld.navigation import neighbors, search, walk_to
from agents.gridworld.skills.base import SkillRun, blocked_by, entrance_obstacle
from agents.world import OK, Outcome, failed
from envs.observation.embodied import Cell
from envs.observation.names import DOOR


def split_place(belief: Belief, name: str) -> tuple[str, str]:
    """Split a name into the thing's description and its room; the room is empty where none is named."""
    return split_name(name, belief.room_names)


def ground(belief: Belief, name: str) -> Thing | None:
    """Return the thing that fits the name in its room, or ``None``.

    Of several things of one name, those within reach come first; of these, one next to a doorway, since it may block the way; then
    the nearest.
    """
    description, place = split_place(belief, name)
    room = belief.room_names.index(place) if place else belief.here
    near = [thing for thing in belief.find(description) if room in belief.rooms_of(thing) + belief.rooms_beside(thing)]
    reach = search(belief) if len(near) > 1 else {}
    return min(near, key=lambda t: (not _is_beside(t, reach), t.kind == DOOR or not belief.rooms_beside(t)), default=None)


def _is_beside(thing: Thing, reach: Collection[Cell]) -> bool:
    return any(cell in reach for cell in neighbors(thing.cell))


def boxed(belief: Belief, name: str) -> Thing | None:
    """Return the open box of the named room that holds a thing of this name, or ``None``."""
    description, place = split_place(belief, name)
    return next(iter(belief.boxed(description, belief.room_names.index(place) if place else belief.here)), None)


def locate(belief: Belief, name: str, in_boxes: bool = False) -> Generator[int, None, Thing | Outcome]:
    """Find the thing of that name; where none is known, walk into the room that the name gives and look again.

    Parameters
    ----------
    belief
        What the agent has seen.
    name
        A name as the plan writes it.
    in_boxes
        Whether a thing inside an open box counts; the box is returned for it.

    Returns
    -------
    Thing or Outcome
        The thing, or the failure to find it.
    """
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
    """Walk into the room of that name. Fails where it was never seen or cannot be reached."""
    index = belief.room_names.index(name)
    if index not in belief.known_rooms():
        return failed(f"{name} was never seen")
    if belief.here == index and int(belief.room[belief.cell]) == index:
        return OK
    goals = {cell for cell in belief.cells_of(index) if belief.passable(cell)}
    reached = yield from walk_to(belief, goals)
    return OK if reached else blocked_by(entrance_obstacle(belief, index))
