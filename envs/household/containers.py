"""Boxes that hold one object: they open and close, can be filled again, and stay in place, unlike minigrid's.

An observation shows a box in its state channel: 0 closed, 1 open and empty, else the ``content_code`` of what the open box holds.
"""

from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.core.world_object import Box, WorldObj

BOX_CLOSED, BOX_EMPTY = 0, 1
_COLORS = 8


def content_code(kind: int, color: int) -> int:
    """Return the state (at least 2) of an open box that holds an object, from minigrid's codes of its type and colour."""
    return 2 + kind * _COLORS + color


def decode_content(state: int) -> tuple[int, int] | None:
    """Return minigrid's codes of type and colour of a box's visible content; ``None`` for a closed or an empty box."""
    return divmod(state - 2, _COLORS) if state >= 2 else None


class Container(Box):
    """A box of the household; its content can be seen and taken only while it is open.

    Parameters
    ----------
    color
        One of minigrid's colours.
    contains
        The content, if any.
    is_open
        Whether the box stands open.
    """

    def __init__(self, color: str, contains: WorldObj | None = None, is_open: bool = False) -> None:
        super().__init__(color, contains)
        self.is_open = is_open

    def can_pickup(self) -> bool:
        """Return False: a box cannot be carried."""
        return False

    def toggle(self, env: object, pos: tuple[int, int]) -> bool:
        """Open or close the box, and return True."""
        self.is_open = not self.is_open
        return True

    def encode(self) -> tuple[int, int, int]:
        """Return minigrid's codes of type and colour, and the state that this module's docstring describes."""
        state = BOX_CLOSED
        if self.is_open:
            inside = self.contains
            state = BOX_EMPTY if inside is None else content_code(OBJECT_TO_IDX[inside.type], COLOR_TO_IDX[inside.color])
        return OBJECT_TO_IDX["box"], COLOR_TO_IDX[self.color], state

    def render(self, img: object) -> None:
        """Draw the box, and its content while the box is open."""
        super().render(img)
        if self.is_open and self.contains is not None:
            self.contains.render(img)
