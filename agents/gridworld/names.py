"""The names that a plan in a gridworld may use: its rooms, and whatever a thing could be called."""

from collections.abc import Collection, Sequence
from functools import lru_cache

from minigrid.core.constants import IDX_TO_COLOR

from agents.gridworld.belief import Thing, matches
from envs.observation.names import ROOM_NAMES, THINGS

_TAGS = ("left", "right", "front", "behind")


def split_name(name: str, rooms: Collection[str]) -> tuple[str, str]:
    """Split a name into the thing's description and its room; the room is empty where none is named."""
    description, found, room = name.rpartition(" in ")
    return (description, room) if found and room in rooms else (name, "")


class GridNames:
    """The names that an agent knows before it has seen anything.

    A thing need not have been seen: a plan may look for it in the room where it should be. Nor need a room be in this house: that
    is for the skill to find out. What no thing and no room can be called is unknown.

    Parameters
    ----------
    rooms
        Names of the rooms in this world; those that households have are known in any case.
    """

    def __init__(self, rooms: Sequence[str]) -> None:
        self._rooms = tuple(rooms)
        self._known = frozenset((*rooms, *ROOM_NAMES))

    def __contains__(self, name: str) -> bool:
        return name in self._known or _describes(split_name(name, self._known)[0])

    def __str__(self) -> str:
        place = self._rooms[0] if self._rooms else "kitchen"
        return f"the name of a room ({', '.join(self._rooms)}) or of a thing, such as 'red ball in {place}'"


@lru_cache(maxsize=4096)
def _describes(description: str) -> bool:
    """Tell whether a thing of some kind and colour, at some place, would fit the description."""
    return any(matches(Thing(kind, color, 0, (0, 0), _TAGS), description) for kind in THINGS for color in IDX_TO_COLOR)
