"""Ways through what the agent has seen: breadth-first search over believed cells, and walking step by step.

Walkers are generators: each ``yield`` is one environment action, after which the belief has taken in the new observation.
"""

from collections import deque
from collections.abc import Callable, Collection, Generator

from minigrid.core.actions import Actions

from agents.gridworld.belief import STEPS, Belief, Cell
from envs.observation.names import CLOSED, UNSEEN, WALL

Walk = Generator[int, None, bool]
MAX_ATTEMPTS = 40


def search(belief: Belief, passable: Callable[[Cell], bool] | None = None, start: Cell | None = None) -> dict[Cell, Cell | None]:
    """All cells that can be walked to from the agent's, nearest first, each with the cell before it (``None`` for the start)."""
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
    """The cells from the one after the start up to ``goal``."""
    path: list[Cell] = []
    cell: Cell | None = goal
    while cell is not None and before[cell] is not None:
        path.append(cell)
        cell = before[cell]
    return path[::-1]


def neighbors(cell: Cell) -> list[Cell]:
    """The four cells next to one."""
    return [(cell[0] + dx, cell[1] + dy) for dx, dy in STEPS]


def is_frontier(belief: Belief, cell: Cell, since: int = 0) -> bool:
    """Whether a cell next to this one was not seen (or not since step ``since``, which asks for another look)."""
    if belief.kind[cell] == WALL:
        return False
    around = (near for near in neighbors(cell) if belief.kind[near] != WALL)
    return any(belief.kind[near] == UNSEEN or belief.seen_at[near] < since for near in around)


def turn_to(belief: Belief, cell: Cell) -> Generator[int, None, None]:
    """Turn towards an adjacent cell."""
    want = STEPS.index((cell[0] - belief.cell[0], cell[1] - belief.cell[1]))
    while belief.direction != want:
        yield int(Actions.right if (want - belief.direction) % 4 in (1, 2) else Actions.left)


def walk_to(belief: Belief, goals: Collection[Cell]) -> Walk:
    """Walk to the nearest of the goal cells, opening closed doors; False where none can be reached by what is believed."""
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
    """Walk along a path until its end, or until something on it turns out otherwise than believed."""
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
    """Walk to a cell next to ``target`` and face it."""
    if belief.cell == target:
        yield from _step_aside(belief)
    reached = yield from walk_to(belief, [cell for cell in neighbors(target) if belief.passable(cell) or cell == belief.cell])
    if reached:
        yield from turn_to(belief, target)
    return reached


def _step_aside(belief: Belief) -> Generator[int, None, None]:
    """Leave the cell that is to be faced (an open doorway)."""
    free = next((cell for cell in neighbors(belief.cell) if belief.passable(cell)), None)
    if free is not None:
        yield from turn_to(belief, free)
        yield int(Actions.forward)
