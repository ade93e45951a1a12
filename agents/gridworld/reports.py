"""What the text of an observation says, gathered from the agent's belief and situation."""

from collections.abc import Iterable
from dataclasses import replace

from agents.gridworld.belief import MARGIN, Belief, Thing
from agents.gridworld.hindrances import numbered_goal
from agents.gridworld.navigation import neighbors
from agents.gridworld.situation import assess, stopped_by
from envs.household.containers import BOX_CLOSED
from envs.observation.describe import Mention, News, Report
from envs.observation.embodied import Cell
from envs.observation.names import BOX, CLOSED, DOOR, LOCKED, OPEN, thing_name

_DOOR_CONDITIONS = {OPEN: "open", CLOSED: "closed", LOCKED: "locked"}


def mention(belief: Belief, thing: Thing) -> Mention:
    """Write down a thing for a report, as the agent sees it from its cell."""
    content = thing.content
    if thing.kind == DOOR:
        condition = _DOOR_CONDITIONS[thing.state]
    elif thing.kind == BOX and belief.unique_names:
        condition = "closed" if thing.state == BOX_CLOSED else "empty"
        if content:
            condition = f"holding {thing_name(*content)} in {belief.place_of(thing)}"
    else:
        condition = ""
    ahead, right = _relative(belief, thing.cell)
    name = " ".join([thing.name, *(f"at {tag}" for tag in thing.tags)])
    return Mention(name, belief.place_of(thing), condition, ahead, right)


def _relative(belief: Belief, cell: Cell) -> tuple[int, int]:
    """Return how many steps ahead and to the right of the agent a cell lies."""
    east = neighbors((0, 0))[belief.direction]
    dx, dy = cell[0] - belief.cell[0], cell[1] - belief.cell[1]
    return dx * east[0] + dy * east[1], dy * east[0] - dx * east[1]


def news(belief: Belief, skill: str, outcome: str, done: int, total: int) -> News:
    """Gather what the entry after one skill says. The belief's news stay; the caller clears them once the history has them."""
    fresh = tuple(mention(belief, thing) for thing in belief.fresh.values())
    return News(skill, outcome, fresh, tuple(belief.gone), belief.here_name, belief.held_name, done, total)


def report(
    belief: Belief,
    outcomes: list[tuple[str, str]],
    subgoal: str,
    done: int,
    total: int,
    goals: Iterable[tuple[int, str]] = (),
) -> Report:
    """Gather what the next observation says.

    Parameters
    ----------
    belief
        What the agent has seen. Its news stay; the caller clears them once the history has them.
    outcomes
        Each skill since the last report with its outcome, oldest first.
    subgoal
        Text of the open subgoal.
    done, total
        Number of subgoals reached, and of all subgoals.
    goals
        Numbers and texts of all open subgoals where the text is to name them, else empty.

    Returns
    -------
    Report
        What ``envs.describe`` writes as text.
    """
    situation = assess(belief, subgoal)
    return Report(
        outcomes=tuple(outcomes),
        fresh=tuple(mention(belief, thing) for thing in belief.fresh.values()),
        in_view=tuple(mention(belief, belief.things[cell]) for cell in belief.in_view if cell in belief.things),
        gone=tuple(belief.gone),
        room=belief.here_name,
        held=belief.held_name,
        rooms=tuple(belief.room_names[room] for room in belief.known_rooms()),
        unexplored=situation.unexplored,
        locked=tuple(replace(mention(belief, door.thing), room=door.side) for door in situation.locked),
        blocked=tuple((goal, stopped_by(belief, obstacle)) for goal, obstacle in situation.blocked.items()),
        unopened=tuple(mention(belief, thing) for thing in situation.unopened),
        done=done,
        total=total,
        subgoal=subgoal,
        goals=tuple(numbered_goal(belief, situation, number, goal) for number, goal in goals),
        column=belief.cell[0] - MARGIN,
        row=belief.cell[1] - MARGIN,
        direction=belief.direction,
    )
