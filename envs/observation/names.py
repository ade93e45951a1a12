"""Names of rooms and things, and minigrid's codes for them; the same in all gridworlds."""

from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, OBJECT_TO_IDX

ROOM_NAMES = ("kitchen", "bedroom", "bathroom", "hall", "study", "garage", "pantry", "nursery", "attic")

UNSEEN, EMPTY, WALL = (OBJECT_TO_IDX[name] for name in ("unseen", "empty", "wall"))
"""Minigrid's codes of cells without a thing."""
DOOR, KEY, BALL, BOX = (OBJECT_TO_IDX[name] for name in ("door", "key", "ball", "box"))
"""Minigrid's codes of things."""
THINGS = frozenset((DOOR, KEY, BALL, BOX))
OPEN, CLOSED, LOCKED = 0, 1, 2
"""Minigrid's codes of a door's state."""


def room_name(index: int) -> str:
    """Return the name of room ``index`` (from 0), or a number such as ``room 10`` where the names run out."""
    return ROOM_NAMES[index] if index < len(ROOM_NAMES) else f"room {index + 1}"


def thing_name(kind: int, color: int) -> str:
    """Return a name such as ``red ball`` for minigrid's codes of a type and a colour."""
    return f"{IDX_TO_COLOR[color]} {IDX_TO_OBJECT[kind]}"
