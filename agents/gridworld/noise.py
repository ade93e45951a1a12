"""Plans with the mistakes of a learner, so that episodes show how the expert recovers."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from agents.gridworld.belief import Belief
from planner.lines import subgoal_number


def disturbed_plan(rng: np.random.Generator, belief: Belief, plan: str) -> str:
    """Make a mistake in ``plan``: cut it, name the wrong room or thing, leave a line out, or do something that does not help."""
    lines = plan.splitlines()
    rooms = _rooms(belief)
    things = [thing.name for thing in belief.things.values()] or ["red ball"]
    room, thing = rooms[int(rng.integers(len(rooms)))], things[int(rng.integers(len(things)))]
    cut = int(rng.integers(1, len(lines) + 1))
    at = int(rng.integers(len(lines)))
    elsewhere = f"{lines[at].rpartition(' in ')[0]} in {room}" if " in " in lines[at] else f"{subgoal_number(lines[at])}goto {room}"
    number = subgoal_number(lines[0])
    ways = (
        lines[:cut],
        lines[:cut],
        [f"{number}goto {room}"],
        [f"{number}goto {room}", *lines[1:]],
        [f"{number}pickup {thing}"],
        [f"{number}pickup {thing} in {room}", *lines[1:]],
        [f"{number}drop"],
        [f"{number}drop", *lines[1:]],
        [f"{number}drop", lines[0].removeprefix(number), *lines[1:]],
        [f"{number}explore"],
        lines[1:] or lines,
        [*lines[:at], elsewhere, *lines[at + 1 :]],
        [*lines[:at], *lines[at + 1 :]] or lines,
    )
    return "\n".join(ways[int(rng.integers(len(ways)))])


@dataclass
class MistakenPlaces:
    """The rooms in which a learner wrongly looks for things, as one does that copies places from its earlier plans."""

    rng: np.random.Generator
    """Draws things and rooms."""
    stubbornness: float
    """Probability of making the same mistake again in the next plan that is spoiled, 0 to 1."""
    sought: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Rooms in which right plans have looked for each thing, oldest first."""
    wrong: dict[str, str] = field(default_factory=dict)
    """The room in which each mistaken thing is looked for."""

    def note(self, belief: Belief, plan: str) -> None:
        """Take in where a right plan looks for things."""
        for name, room in _places(plan, _rooms(belief)):
            if room not in self.sought[name][-1:]:
                self.sought[name].append(room)

    def spoil(self, belief: Belief, plan: str) -> str:
        """Look for a thing of ``plan`` in a wrong room: where a plan has looked for it before, else in any room."""
        rooms = _rooms(belief)
        places = _places(plan, rooms)
        names = [name for name, _ in places]
        self.wrong = {n: room for n, room in self.wrong.items() if n in names and self.rng.random() < self.stubbornness}
        if names and not self.wrong:
            moved = [name for name, room in places if any(other != room for other in self.sought[name])]
            name = self._pick(moved or names)
            self.wrong[name] = self._pick([room for room in self.sought[name] if (name, room) not in places] or rooms)
        return "\n".join(self._misplaced(line, rooms) for line in plan.splitlines())

    def _misplaced(self, line: str, rooms: list[str]) -> str:
        found = _places(line, rooms)
        return f"{line.rpartition(' in ')[0]} in {self.wrong[found[0][0]]}" if found and found[0][0] in self.wrong else line

    def _pick(self, names: list[str]) -> str:
        return names[int(self.rng.integers(len(names)))]


def _rooms(belief: Belief) -> list[str]:
    return [belief.room_names[room] for room in belief.known_rooms()]


def _places(plan: str, rooms: list[str]) -> list[tuple[str, str]]:
    """List the things of a plan that it looks for in a room, with these rooms, in the order of its lines."""
    split = (line.rpartition(" in ") for line in plan.splitlines())
    return [(" ".join(head.split()[-2:]), room) for head, _, room in split if room in rooms]
