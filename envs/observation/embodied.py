"""The observation of every gridworld: minigrid's partial view, the agent's pose, and the room of each visible cell.

Nothing outside the view enters: cells that are not visible are 0 in ``image`` and -1 in ``rooms``.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from minigrid.core.constants import DIR_TO_VEC
from numpy.typing import NDArray

from envs.observation.mission import MissionText

Cell = tuple[int, int]
"""Column and row of a cell."""
Observation = dict[str, Any]
"""Arrays and the mission by name, as ``embodied_space`` describes them."""


def _offsets(view: int) -> NDArray[np.int64]:
    """Return the world offset of each view cell for the four directions, shape (4, view, view, 2).

    The agent is at (view // 2, view - 1).
    """
    out = np.zeros((4, view, view, 2), dtype=np.int64)
    for direction, (fx, fy) in enumerate(DIR_TO_VEC):
        for i in range(view):
            for j in range(view):
                ahead, right = view - 1 - j, i - view // 2
                out[direction, i, j] = (fx * ahead - fy * right, fy * ahead + fx * right)
    return out


_CACHE: dict[int, NDArray[np.int64]] = {view: _offsets(view) for view in (3, 5, 7, 9)}


def view_cells(x: int, y: int, direction: int, view: int) -> NDArray[np.int64]:
    """Compute the world coordinates of the cells in view.

    Parameters
    ----------
    x, y
        The agent's column and row.
    direction
        0 east, 1 south, 2 west, 3 north.
    view
        Side of the square view in cells: 3, 5, 7 or 9.

    Returns
    -------
    NDArray[np.int64]
        Column and row of each cell, shape (view, view, 2). Cells may lie outside the grid.
    """
    cells: NDArray[np.int64] = _CACHE[view][direction] + np.array((x, y))
    return cells


def embodied_space(space: spaces.Dict, view: int, width: int, height: int) -> spaces.Dict:
    """Add the pose and the rooms to minigrid's observation space.

    Parameters
    ----------
    space
        Minigrid's observation space.
    view
        Side of the square view in cells.
    width, height
        Size of the grid in cells.

    Returns
    -------
    spaces.Dict
        ``space`` with ``pose`` (column, row; shape (2,), int16) and ``rooms`` (shape (view, view), int8). ``mission`` becomes a
        ``Text`` space, which gymnasium's wrappers know, unlike minigrid's own.
    """
    return spaces.Dict(
        {
            **space.spaces,
            "mission": MissionText(),
            "pose": spaces.Box(0, max(width, height), (2,), np.int16),
            "rooms": spaces.Box(-1, 127, (view, view), np.int8),
        }
    )


def embodied(env: Any, observation: Observation) -> Observation:
    """Add the agent's pose and the visible rooms to an observation.

    Parameters
    ----------
    env
        The unwrapped environment, one of minigrid's ``RoomGrid`` family.
    observation
        Minigrid's observation of its present state.

    Returns
    -------
    Observation
        The observation with the entries that ``embodied_space`` adds.
    """
    x, y = int(env.agent_pos[0]), int(env.agent_pos[1])
    cells = view_cells(x, y, int(env.agent_dir), env.agent_view_size)
    visible = observation["image"][..., 0] != 0
    rooms = np.where(visible, room_indices(cells, env.room_size, env.num_cols, env.num_rows), -1)
    return {**observation, "pose": np.array((x, y), dtype=np.int16), "rooms": rooms.astype(np.int8)}


def room_indices(cells: NDArray[np.int64], room_size: int, cols: int, rows: int) -> NDArray[np.int64]:
    """Find the room of each cell.

    Parameters
    ----------
    cells
        Column and row of each cell, shape (..., 2).
    room_size
        Side of a room in cells, both walls included.
    cols, rows
        Number of rooms in a row and in a column of the house.

    Returns
    -------
    NDArray[np.int64]
        Index of each cell's room, shape (...); -1 for walls, doorways and cells outside the house.
    """
    pitch = room_size - 1
    x, y = cells[..., 0], cells[..., 1]
    inside = (x > 0) & (y > 0) & (x < cols * pitch) & (y < rows * pitch) & (x % pitch != 0) & (y % pitch != 0)
    return np.where(inside, (y // pitch) * cols + x // pitch, -1)
