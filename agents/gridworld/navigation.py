"""Navigation on the belief: breadth-first search over cells that were seen, and walking step by step.

A walk is a generator. It yields one of minigrid's actions at a time; before it goes on, the belief takes in the next observation.
"""

from collections import deque
from collections.abc import Callable, Collection, Generator

from minigrid.core.actions import Actions

from agents.gridworld.belief import STEPS, Belief
from envs.observation.embodied import Cell
from envs.observation.names import CLOSED, UNSEEN, WALL

Walk = Generator[int, None, bool]
"""Yields actions and returns whether it arrived."""
MAX_ATTEMPTS = 40
"""How often a walk looks for a new path before it gives up."""
FIRST_VIEW = 1
"""The belief's step at the first observation: a cell not seen since then was never in view, whatever an inventory says of it."""


def search(belief: Belief, passable: Callable[[Cell], bool] | None = None, start: Cell | None = None) -> dict[Cell, Cell | None]:
    """Search breadth first for the cells that can be walked to.

    Parameters
    ----------
    belief
        The map.
    passable
        Which cells can be walked onto; ``None`` for ``belief.passable``.
    start
        Where to begin; ``None`` for the agent's cell.

    Returns
    -------
    dict
        The cells, nearest first, each with the cell before it on a shortest path (``None`` for the start).
    """
    passable = passable or belief.passable
    origin = belief.cell if start is None else start
    before: dict[Cell, Cell | None] = {origin: None}
    queue = deque([origin])
    while queue:
        x, y = queue.popleft()
        for dx, dy in STEPS:
            cell = (x + dx, y + dy)
            if cell not in before and passable(cell):
                before[cell] = (x, y)
                queue.append(cell)
    return before


def path_to(before: dict[Cell, Cell | None], goal: Cell) -> list[Cell]:
    """Return the path to ``goal`` that a search has found, without the start."""
    path: list[Cell] = []
    cell: Cell | None = goal
    while cell is not None and before[cell] is not None:
        path.append(cell)
        cell = before[cell]
    return path[::-1]


def neighbors(cell: Cell) -> list[Cell]:
    """List the four cells next to a cell, east first, then clockwise."""
    return [(cell[0] + dx, cell[1] + dy) for dx, dy in STEPS]


def cell_ahead(belief: Belief) -> Cell:
    """Return the cell that the agent faces."""
    return neighbors(belief.cell)[belief.direction]


def is_frontier(belief: Belief, cell: Cell, since: int = FIRST_VIEW) -> bool:
    """Tell whether a cell next to this one was never in view, or not since the belief's step ``since``."""
    if belief.kind[cell] == WALL:
        return False
    around = (near for near in neighbors(cell) if belief.kind[near] != WALL)
    return any(belief.kind[near] == UNSEEN or belief.seen_at[near] < since for near in around)


def turn_to(belief: Belief, cell: Cell) -> Generator[int, None, None]:
    """Turn until the agent faces an adjacent cell."""
    want = STEPS.index((cell[0] - belief.cell[0], cell[1] - belief.cell[1]))
    while belief.direction != want:
        yield int(Actions.right if (want - belief.direction) % 4 in (1, 2) else Actions.left)


def walk_to(belief: Belief, goals: Collection[Cell]) -> Walk:
    """Walk to the nearest of the goal cells, opening closed doors; return whether the agent arrived."""
    for _ in range(MAX_ATTEMPTS):
        if belief.cell in goals:
            return True
        before = search(belief)
        goal = next((cell for cell in before if cell in goals), None)
        if goal is None:
            return False
        yield from follow(belief, path_to(before, goal))
    return False


def follow(belief: Belief, path: list[Cell]) -> Generator[int, None, None]:
    """Walk along a path until its end, or until a cell on it turns out to be blocked."""
    for index, cell in enumerate(path):
        yield from turn_to(belief, cell)
        if belief.is_door(cell, CLOSED):
            yield int(Actions.toggle)
        if not belief.passable(cell) or belief.is_door(cell, CLOSED):
            return
        yield int(Actions.forward)
        if belief.cell != cell or not all(belief.passable(ahead) for ahead in path[index + 1 :]):
            return


def walk_beside(belief: Belief, target: Cell) -> Walk:
    """Walk to a cell next to ``target`` and face it; return whether the agent arrived."""
    if belief.cell == target:
        yield from _step_aside(belief)
    reached = yield from walk_to(belief, [cell for cell in neighbors(target) if belief.passable(cell) or cell == belief.cell])
    if reached:
        yield from turn_to(belief, target)
    return reached


def _step_aside(belief: Belief) -> Generator[int, None, None]:
    """Step off the cell that the agent is to face (an open doorway)."""
    free = next((cell for cell in neighbors(belief.cell) if belief.passable(cell)), None)
    if free is not None:
        yield from turn_to(belief, free)
        yield int(Actions.forward)
