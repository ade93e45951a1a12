"""Boxes that hold one object. Unlike minigrid's box they open and close, stay where they are, and can be filled again.

The observation shows the content of an open box in the box's state channel: 0 closed, 1 open and empty, else ``content_code``.
"""

from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX
from minigrid.core.world_object import Box, WorldObj

BOX_CLOSED, BOX_EMPTY = 0, 1
_COLORS = 8


def content_code(kind: int, color: int) -> int:
    """The state of an open box that holds an object of this kind and colour (at least 2)."""
    return 2 + kind * _COLORS + color


def decode_content(state: int) -> tuple[int, int] | None:
    """Kind and colour of the visible content; ``None`` for a closed or an empty box."""
    return divmod(state - 2, _COLORS) if state >= 2 else None


class Container(Box):
    """A box of the household. ``contains`` is its content, visible and reachable only while ``is_open``."""

    def __init__(self, color: str, contains: WorldObj | None = None, is_open: bool = False) -> None:
        super().__init__(color, contains)
        self.is_open = is_open

    def can_pickup(self) -> bool:
        """Boxes are furniture: they stay."""
        return False

    def toggle(self, env: object, pos: tuple[int, int]) -> bool:
        """Open or close."""
        self.is_open = not self.is_open
        return True

    def encode(self) -> tuple[int, int, int]:
        """Type, colour, and the state that this module's docstring describes."""
        state = BOX_CLOSED
        if self.is_open:
            inside = self.contains
            state = BOX_EMPTY if inside is None else content_code(OBJECT_TO_IDX[inside.type], COLOR_TO_IDX[inside.color])
        return OBJECT_TO_IDX["box"], COLOR_TO_IDX[self.color], state

    def render(self, img: object) -> None:
        """A box with its lid; the content shows through while the box is open."""
        super().render(img)
        if self.is_open and self.contains is not None:
            self.contains.render(img)
