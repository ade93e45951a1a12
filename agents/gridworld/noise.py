"""Plans with the mistakes of a learner, so that episodes show how the expert recovers."""

import numpy as np

from agents.gridworld.belief import Belief


def disturbed_plan(rng: np.random.Generator, belief: Belief, plan: str) -> str:
    """Make a mistake in ``plan``: cut it, name the wrong room or thing, leave a line out, or do something that does not help."""
    lines = plan.splitlines()
    rooms = [belief.room_names[room] for room in belief.known_rooms()]
    things = [thing.name for thing in belief.things.values()] or ["red ball"]
    room, thing = rooms[int(rng.integers(len(rooms)))], things[int(rng.integers(len(things)))]
    cut = int(rng.integers(1, len(lines) + 1))
    at = int(rng.integers(len(lines)))
    elsewhere = f"{lines[at].rpartition(' in ')[0]} in {room}" if " in " in lines[at] else f"{_number(lines[at])}goto {room}"
    number = _number(lines[0])
    ways = (
        lines[:cut],
        lines[:cut],
        [f"{number}goto {room}"],
        [f"{number}goto {room}", *lines[1:]],
        [f"{number}pickup {thing}"],
        [f"{number}drop"],
        [f"{number}explore"],
        lines[1:] or lines,
        [*lines[:at], elsewhere, *lines[at + 1 :]],
        [*lines[:at], *lines[at + 1 :]] or lines,
    )
    return "\n".join(ways[int(rng.integers(len(ways)))])


def _number(line: str) -> str:
    """Return the number of the subgoal in front of a line, with its full stop and space; empty for a line without one."""
    number, stop, _ = line.partition(". ")
    return f"{number}. " if stop and number.isdigit() else ""
