"""The space of missions."""

import string
from typing import Any, NoReturn

from gymnasium import spaces
from gymnasium.error import CustomSpaceError
from gymnasium.vector.utils import create_shared_memory

MAX_CHARS = 1000
"""Most characters of a mission."""


class MissionText(spaces.Text):
    """A ``Text`` space that holds every mission in printable ASCII; the empty one stands for "nothing left to do"."""

    def __init__(self) -> None:
        super().__init__(MAX_CHARS, min_length=0, charset=string.printable)


@create_shared_memory.register(MissionText)
def _refuse_shared_memory(space: MissionText, n: int = 1, ctx: Any = None) -> NoReturn:
    """Refuse what gymnasium does with texts in shared memory: it reads them once, before the first episode, and never again."""
    raise CustomSpaceError("missions are texts, which gymnasium cannot share between processes")
