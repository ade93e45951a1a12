"""What every environment here shows the agent: minigrid's partial view, and where the agent is.

``embodied`` adds to minigrid's observation the agent's pose (odometry) and, for each visible cell, the index of its room. Nothing
outside the view enters: cells that are not visible are 0 in ``image`` and -1 in ``rooms``.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from minigrid.core.constants import DIR_TO_VEC
from numpy.typing import NDArray

Observation = dict[str, Any]


def _offsets(view: int) -> NDArray[np.int64]:
    """World offset of each view cell for the four directions, shape (4, view, view, 2); the agent sits at (view // 2, view - 1)."""
    out = np.zeros((4, view, view, 2), dtype=np.int64)
    for direction, (fx, fy) in enumerate(DIR_TO_VEC):
        for i in range(view):
            for j in range(view):
                ahead, right = view - 1 - j, i - view // 2
                out[direction, i, j] = (fx * ahead - fy * right, fy * ahead + fx * right)
    return out


_CACHE: dict[int, NDArray[np.int64]] = {view: _offsets(view) for view in (3, 5, 7, 9)}


def view_cells(x: int, y: int, direction: int, view: int) -> NDArray[np.int64]:
    """World coordinates of the view's cells, shape (view, view, 2)."""
    cells: NDArray[np.int64] = _CACHE[view][direction] + np.array((x, y))
    return cells


def embodied_space(space: spaces.Dict, view: int, width: int, height: int) -> spaces.Dict:
    """Minigrid's observation space with ``pose`` (x, y) and ``rooms`` (view, view) added."""
    return spaces.Dict(
        {
            **space.spaces,
            "pose": spaces.Box(0, max(width, height), (2,), np.int16),
            "rooms": spaces.Box(-1, 127, (view, view), np.int8),
        }
    )


def embodied(env: Any, observation: Observation) -> Observation:
    """``observation`` of the ``RoomGrid`` environment ``env`` with the pose and the visible rooms."""
    x, y = int(env.agent_pos[0]), int(env.agent_pos[1])
    cells = view_cells(x, y, int(env.agent_dir), env.agent_view_size)
    visible = observation["image"][..., 0] != 0
    rooms = np.where(visible, room_indices(cells, env.room_size, env.num_cols, env.num_rows), -1)
    return {**observation, "pose": np.array((x, y), dtype=np.int16), "rooms": rooms.astype(np.int8)}


def room_indices(cells: NDArray[np.int64], room_size: int, cols: int, rows: int) -> NDArray[np.int64]:
    """Index of the room of each cell, shape (...,) for cells (..., 2); -1 for walls, doorways and what lies outside."""
    pitch = room_size - 1
    x, y = cells[..., 0], cells[..., 1]
    inside = (x > 0) & (y > 0) & (x < cols * pitch) & (y < rows * pitch) & (x % pitch != 0) & (y % pitch != 0)
    return np.where(inside, (y // pitch) * cols + x // pitch, -1)


def goal_info(subgoals: list[tuple[str, bool]], success: bool, disturbances: list[str]) -> dict[str, Any]:
    """The ``info`` of every environment here: subgoals in order, the open one, progress, success, and what disturbed this step."""
    open_ones = [text for text, done in subgoals if not done]
    return {
        "subgoals": [text for text, _ in subgoals],
        "subgoals_done": len(subgoals) - len(open_ones),
        "subgoals_total": len(subgoals),
        "subgoal": open_ones[0] if open_ones and not success else "",
        "success": success,
        "disturbances": disturbances,
    }
