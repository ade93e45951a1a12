"""The words of the missions, for wrappers that turn a mission into numbers."""

from minigrid.core.constants import COLOR_NAMES

from envs.household.subgoals import KINDS
from envs.observation.names import ROOM_NAMES

_LEVELS = (
    ", a after and at avoid behind by corresponding end fetch find from front get go goal hallway have in it lava left matching "
    "maze must near next object of on open opening or pick put reach right room rooms square the them then to traverse unlock up "
    "use with you your"
)
"""Words of the missions of minigrid's levels."""


def _words() -> list[str]:
    templates = " ".join(kind.template.format(thing="", target="") for kind in KINDS.values()).split()
    return sorted({*templates, *_LEVELS.split(), *COLOR_NAMES, *ROOM_NAMES, "ball", "box", "door", "key"})


MISSION_WORDS: dict[str, int] = {word: index for index, word in enumerate(_words())}
"""Each word of the missions of all registered environments with its index: ``word_dict`` of minigrid's wrapper
``DictObservationSpaceWrapper``, whose own words are those of minigrid's missions only."""
