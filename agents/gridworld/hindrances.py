"""What keeps the agent from a subgoal: what was not found, and what is out of reach.

An observation that names all open subgoals says it behind each of them. It follows from the rest of the text, but only by several
looks: where a thing was seen, whether that room is blocked, by which door, and whether the door's key is known. Where things are
is not said again.
"""

from collections.abc import Iterator

from agents.gridworld.belief import Belief, Thing
from agents.gridworld.goal_text import things_named
from agents.gridworld.situation import Situation, nearest_known, stopped_by
from envs.observation.names import DOOR, KEY, LOCKED, thing_name


def numbered_goal(belief: Belief, situation: Situation, number: int, goal: str) -> str:
    """Write an open subgoal with its number, and in brackets what keeps the agent from it."""
    found = ", ".join(dict.fromkeys(hindrances(belief, situation, goal)))
    return f"{number}. {goal} ({found})" if found else f"{number}. {goal}"


def hindrances(belief: Belief, situation: Situation, goal: str) -> Iterator[str]:
    """Yield what keeps the agent from a subgoal, such as ``red ball not found`` or ``attic blocked by green door in hall``."""
    opens = goal.startswith(("open ", "unlock "))
    for name in things_named(goal):
        if name in belief.room_names:
            yield from _of_room(belief, situation, name)
        elif not belief.holds(name):
            yield from _of_thing(belief, situation, name, opens)


def _of_room(belief: Belief, situation: Situation, name: str) -> Iterator[str]:
    if belief.room_names.index(name) not in belief.known_rooms():
        yield f"{name} not found"
    elif name in situation.blocked:
        yield from _blocked(belief, situation, name, name, ())


def _of_thing(belief: Belief, situation: Situation, name: str, opens: bool = False, doors: tuple[Thing, ...] = ()) -> Iterator[str]:
    """Yield what keeps the agent from a thing, or from opening it. ``doors`` are those whose keys are looked for."""
    thing = nearest_known(belief, situation, name, boxed=not opens)
    if thing is None:
        yield f"{name} not found"
        return
    if opens and thing.kind == DOOR and thing.state == LOCKED:
        yield from _of_key(belief, situation, thing, doors)
    goal = thing.name if thing.name in situation.blocked else belief.room_of(thing)
    obstacle = situation.blocked.get(goal)
    if goal in situation.blocked and (obstacle is None or obstacle.thing != thing):
        yield from _blocked(belief, situation, goal, name, doors)


def _blocked(belief: Belief, situation: Situation, goal: str, name: str, doors: tuple[Thing, ...]) -> Iterator[str]:
    """Yield what blocks the way to ``goal``, a key of ``Situation.blocked``, and what keeps the agent from clearing it."""
    obstacle = situation.blocked[goal]
    yield f"{name} blocked by {stopped_by(belief, obstacle)}"
    if obstacle is not None and obstacle.thing.kind == DOOR and obstacle.thing.state == LOCKED:
        yield from _of_key(belief, situation, obstacle.thing, doors)


def _of_key(belief: Belief, situation: Situation, door: Thing, doors: tuple[Thing, ...]) -> Iterator[str]:
    key = thing_name(KEY, door.color)
    if door not in doors and not belief.holds(key):
        yield from _of_thing(belief, situation, key, doors=(*doors, door))
