"""Names of rooms and things, shared by all environments, so that one describer and one controller serve them all."""

from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, OBJECT_TO_IDX

ROOM_NAMES = ("kitchen", "bedroom", "bathroom", "hall", "study", "garage", "pantry", "nursery", "attic")

UNSEEN, EMPTY, WALL, FLOOR = (OBJECT_TO_IDX[name] for name in ("unseen", "empty", "wall", "floor"))
DOOR, KEY, BALL, BOX = (OBJECT_TO_IDX[name] for name in ("door", "key", "ball", "box"))
THINGS = frozenset((DOOR, KEY, BALL, BOX))
OPEN, CLOSED, LOCKED = 0, 1, 2
"""States of a door, as minigrid encodes them."""


def room_name(index: int, names: tuple[str, ...] = ROOM_NAMES) -> str:
    """The name of room ``index``; rooms beyond the named ones are numbered."""
    return names[index] if index < len(names) else f"room {index + 1}"


def thing_name(kind: int, color: int) -> str:
    """Such as ``red ball``, from minigrid's indices."""
    return f"{IDX_TO_COLOR[color]} {IDX_TO_OBJECT[kind]}"
