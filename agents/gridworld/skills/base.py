"""What all skills share: their outcome, and what blocks a way.

A skill is a generator function ``run(belief, *args)``: it yields environment actions and returns an ``Outcome``. It knows only the
belief.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from agents.gridworld.belief import Belief, Thing
from agents.gridworld.navigation import is_frontier, neighbors, path_to
from agents.world import Outcome, failed
from envs.observation.embodied import Cell
from envs.observation.names import DOOR, THINGS

SkillRun = Generator[int, None, Outcome]
"""Yields environment actions and returns the outcome."""


def no_way(belief: Belief, targets: set[Cell]) -> Outcome:
    """Return the failure to reach any of the target cells, with the locked door or the thing that blocks the way."""
    return blocked_by(first_obstacle(belief, targets))


def blocked_by(obstacle: "Obstacle | None") -> Outcome:
    """Return the failure to get past an obstacle; ``None`` where no way is known."""
    if obstacle is None:
        return failed("no way known")
    name = obstacle.thing.name
    return failed(f"{name} locked" if obstacle.thing.kind == DOOR else f"way blocked by {name}")


@dataclass(frozen=True)
class Obstacle:
    """A locked door or a loose thing that blocks the way."""

    thing: Thing
    """The door or thing."""
    side: str
    """Name of the room from which the agent can walk up to it."""


def entrance_obstacle(belief: Belief, room: int) -> Obstacle | None:
    """Find what blocks the way into a room (an index). In a room without a free cell it is the first thing that fills it."""
    cells = belief.cells_of(room)
    free = {cell for cell in cells if belief.passable(cell)}
    full = all(cell in belief.things for cell in cells) and not any(is_frontier(belief, cell) for cell in cells)
    return first_obstacle(belief, cells, onto=True) if full else first_obstacle(belief, free)


def first_obstacle(belief: Belief, targets: set[Cell], onto: bool = False) -> Obstacle | None:
    """Find what blocks the way to some cells.

    Parameters
    ----------
    belief
        What the agent has seen.
    targets
        The cells to reach, any of them.
    onto
        Whether what lies on the cell that is reached counts as an obstacle too.

    Returns
    -------
    Obstacle or None
        The first obstacle on the way with the fewest of them; ``None`` where no way is known or nothing blocks it.
    """
    before = search_through(belief, targets)
    goal = next((cell for cell in before if cell in targets), None)
    if goal is None:
        return None
    room = belief.here
    for cell in path_to(before, goal):
        if (onto or cell not in targets) and not belief.passable(cell):
            return Obstacle(belief.things[cell], belief.room_names[room])
        room = int(belief.room[cell]) if belief.room[cell] >= 0 else room
    return None


def search_through(belief: Belief, targets: set[Cell]) -> dict[Cell, Cell | None]:
    """Search for cells that can be walked to if obstacles are cleared, those behind the fewest obstacles first (0-1 search).

    Parameters
    ----------
    belief
        What the agent has seen.
    targets
        Cells that count as passable whatever is on them.

    Returns
    -------
    dict
        The cells in order, each with the cell before it (``None`` for the start).
    """
    before: dict[Cell, Cell | None] = {}
    queue: deque[tuple[Cell, Cell | None]] = deque([(belief.cell, None)])
    later: deque[tuple[Cell, Cell | None]] = deque()
    while queue or later:
        if not queue:
            queue, later = later, queue
        cell, origin = queue.popleft()
        if cell in before:
            continue
        before[cell] = origin
        for near in neighbors(cell):
            if belief.passable(near) or near in targets:
                queue.append((near, cell))
            elif int(belief.kind[near]) in THINGS:
                later.append((near, cell))
    return before
