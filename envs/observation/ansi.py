"""A gridworld as text, for the render mode ``ansi``."""

from collections.abc import Sequence
from typing import Any

MODE = "ansi"
"""The render mode."""


def with_ansi(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return an environment's metadata with ``ansi`` among its render modes."""
    modes = [mode for mode in metadata["render_modes"] if mode != MODE]
    return {**metadata, "render_modes": [*modes, MODE]}


def draw_text(base: Any, room_names: Sequence[str]) -> str:
    """Draw a gridworld as text.

    Parameters
    ----------
    base
        The unwrapped environment, one of minigrid's ``RoomGrid`` family.
    room_names
        Names of its rooms by index, row by row.

    Returns
    -------
    str
        The grid as minigrid prints it, two characters per cell (``KR`` is a red key, ``>>`` the agent), then a line each for the
        rooms, the mission and what the agent holds.
    """
    cols = base.num_cols
    rows = [", ".join(room_names[i : i + cols]) for i in range(0, len(room_names), cols)]
    held = f"{base.carrying.color} {base.carrying.type}" if base.carrying is not None else "nothing"
    return "\n".join([base.pprint_grid(), f"Rooms: {' / '.join(rows)}", f"Mission: {base.mission}", f"Holding: {held}"])
