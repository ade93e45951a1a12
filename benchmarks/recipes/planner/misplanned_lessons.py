"""Lessons of wrong plans: what a conversation looks like after plans that looked in the wrong place, and what to plan then.

In an expert's episodes the plan before always names the right places, so a planner learns to copy them from there. A student that
once was wrong then copies its own mistake. In these lessons half the plans that were played are wrong, and the right one stands
beside them as a label: places must be taken from what was seen, whatever was planned. Their sentences are those of
``envs.observation``, their plans those of the expert.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from benchmarks.recipes.planner.lessons import BRIEF
from benchmarks.recipes.planner.locked_lessons import LockedHouse
from erecap.training.encoding import TrainingMessage

WRONG = 0.5
"""Share of the plans that are played with a wrong first line."""
SLIPS, CHANGES, GONE = 0.3, 0.3, 0.2
"""Why a plan ends at a line: the grip slipped, a goal changed, the thing is gone. Otherwise no reason is given."""
KNOWN = 0.97
"""Share of the things in goals that were seen."""
RESTLESS = 0.15
"""How often something goes wrong with the hand between two plans."""
EXPLORES = 4
"""Times that a plan explores at its end, where it does."""
MOST_GOALS = 16
"""Largest number of a goal; a lesson ends before it."""
Lines = list[str]


@dataclass
class MisplannedHouse(LockedHouse):
    """An imagined house in which plans are often wrong.

    Attributes
    ----------
    verbose
        Whether outcomes are told in whole sentences.
    before
        Rooms in which each thing was seen before it was seen elsewhere.
    """

    verbose: bool = False
    before: dict[str, list[str]] = field(default_factory=dict)

    def messages(self, count: int) -> Iterator[TrainingMessage]:
        """Write ``count`` observations, each with the plan that was played, and with the right plan where that was wrong."""
        self.here = self._room()
        most, done, outcomes, goals = int(self.rng.integers(2, 9)), 0, Lines(), Lines()
        for number in range(count):
            news = self._news(12 if number == 0 else 4)
            if done + most > MOST_GOALS:
                return
            goals = [goal if self._is_open(goal) else self._goal() for goal in goals]
            while len(goals) < most:
                goals += [goal for goal in (self._goal(),) if goal not in goals]
            lines = [*outcomes, *news, f"{self._progress(done, goals)} Goals:"]
            lines += [f"{at}. {self._with_hindrances(goal)}" for at, goal in enumerate(goals, done + 1)]
            yield {"role": "user", "content": "\n".join(lines)}
            parts = self._task_plan(goals)
            wrong = self._wrong(parts[0]) if self.rng.random() < WRONG else None
            yield self._plan_message(parts, wrong, done + 1)
            outcomes, reached = self._play_wrong(wrong[0]) if wrong else self._play(parts, goals, done)
            goals, done = goals[reached:], done + reached
            self._trouble()

    def _is_open(self, goal: str) -> bool:
        """Tell whether a goal can still be asked for; that of a door ends when it is unlocked."""
        return not goal.startswith("unlock ") or goal.removeprefix("unlock ") in self.ways

    def _goal(self) -> str:
        """Draw a goal, mostly one that moves a thing."""
        goal = super()._goal()
        return goal if goal.startswith(("put ", "bring ", "unlock ")) or self.rng.random() < 0.3 else self._goal()

    def _some(self) -> str:
        """Draw a thing, nearly always one that was seen before."""
        names = [name for name in self.place if name not in self.ways]
        return names[int(self.rng.integers(len(names)))] if names and self.rng.random() < KNOWN else self._thing()

    def _task_plan(self, goals: Lines) -> list[Lines]:
        """Plan for goal after goal; where something is not known, explore as often as the expert does."""
        parts = super()._task_plan(goals)
        return [*parts[:-1], parts[-1] + ["explore"] * (EXPLORES - 1) if parts[-1][-1] == "explore" else parts[-1]]

    def _plan_message(self, parts: list[Lines], wrong: Lines | None, number: int) -> TrainingMessage:
        label = _numbered(parts, number)
        if wrong is None:
            return {"role": "assistant", "content": label}
        return {"role": "assistant", "content": _numbered([wrong, *parts[1:]], number), "train": False, "label": label}

    def _progress(self, done: int, goals: Lines) -> str:
        return f"Progress {done}/{done + len(goals)}. You are in {self.here}, holding {self.held or 'nothing'}."

    def _wrong(self, right: Lines) -> Lines | None:
        """Spoil the first line of a plan; ``None`` where that gives the right one again."""
        kinds = (self._elsewhere, self._elsewhere, self._straight, self._another, self._dropping)
        lines = kinds[int(self.rng.integers(len(kinds)))](right)
        return lines if lines[0] != right[0] else None

    def _elsewhere(self, right: Lines) -> Lines:
        """Look for the thing in a room where it was before, or in any."""
        start, _, _ = right[0].rpartition(" in ")
        name = start.partition(" next to ")[2] or start.partition(" ")[2]
        rooms = [room for room in self.before.get(name, []) if room != self.place.get(name)] or [self._room()]
        return [f"{start} in {rooms[int(self.rng.integers(len(rooms)))]}", *right[1:]] if start else self._another(right)

    def _straight(self, right: Lines) -> Lines:
        """Take a thing as if nothing stood in the way."""
        closed = [name for name, room in self.place.items() if self._blocked(room)]
        name = closed[int(self.rng.integers(len(closed)))] if closed and not self.held else ""
        return [f"pickup {name} in {self.place[name]}", *right[1:]] if name else self._another(right)

    def _another(self, right: Lines) -> Lines:
        """Take another thing."""
        near = [name for name in self.place if self._in_reach(name)]
        if not near:
            return right
        name = near[int(self.rng.integers(len(near)))]
        return [*(["drop"] if self.held else []), f"pickup {name} in {self.place[name]}", *right[1:]]

    def _dropping(self, right: Lines) -> Lines:
        return ["drop", *right] if self.held else self._another(right)

    def _play_wrong(self, line: str) -> tuple[Lines, int]:
        """Carry out a wrong line; return what is told about it, and that no goal was reached."""
        verb, _, rest = line.partition(" ")
        name, _, room = rest.rpartition(" in ")
        target = name.partition(" next to ")[2] or name
        missing = verb != "drop" and not name.endswith(" door") and self.place.get(target) != room
        if missing:
            return self._told(line, f"failed, no {target} seen in {room}"), 0
        way = self._blocked(room)
        if way:
            return self._told(line, f"failed, {way} locked" if way.endswith(" door") else f"failed, way blocked by {way}"), 0
        return self._carry_out(line), 0

    def _play(self, parts: list[Lines], goals: Lines, done: int) -> tuple[Lines, int]:
        """Carry out a part of the right plan; return what is told about it, and how many goals it reached."""
        left, told = int(self.rng.integers(0, sum(map(len, parts)) + 1)), Lines()
        for reached, part in enumerate(parts):
            for line in part:
                if not left:
                    return [*told, *self._end(line, goals[reached:])], reached
                told += [*self._carry_out(line), self._progress(done + reached, goals[reached:])]
                left -= 1
            if part[-1] == "explore":
                return told, reached
        return told, len(parts)

    def _end(self, line: str, goals: Lines) -> Lines:
        """Tell why a plan ended before a line: sometimes because it failed, because a goal changed, or because a thing is gone."""
        verb, _, rest = line.partition(" ")
        name, _, room = rest.rpartition(" in ")
        draw = self.rng.random()
        if verb in ("pickup", "put", "unlock") and draw < SLIPS:
            return self._told(line, "failed, the grip slipped")
        if goals and draw < SLIPS + CHANGES:
            goals[int(self.rng.integers(len(goals)))] = self._goal()
            return self._told(line, "interrupted, the goal changed")
        if verb == "pickup" and name not in self.ways and draw < SLIPS + CHANGES + GONE:
            return self._lose(line, name, room)
        return []

    def _lose(self, line: str, name: str, room: str) -> Lines:
        """Find a thing gone; sometimes it is seen elsewhere."""
        del self.place[name]
        self.here = room
        self.before.setdefault(name, []).append(room)
        if self.rng.random() < 0.6:
            self.place[name] = self._free_room()
            return [*self._told(line, f"failed, {name} is gone"), f"Seen: {name} in {self.place[name]}."]
        return [*self._told(line, f"failed, {name} is gone"), f"Gone: {name}."]

    def _carry_out(self, line: str) -> Lines:
        """Carry out a line, and tell where the thing that was laid down lies now."""
        held = self.held
        if line in ("drop", "explore") and not (held and line == "drop"):
            self._do(line)
            return self._told(line, "ok" if line == "explore" else "failed, holding nothing")
        room = self.place.get(line.removeprefix("pickup ").rpartition(" in ")[0])
        if room and line.startswith("pickup "):
            self.before.setdefault(line.removeprefix("pickup ").rpartition(" in ")[0], []).append(room)
        self._do(line)
        return self._told(line, "ok") + ([f"Seen: {held} in {self.place[held]}."] if held and held != self.held else [])

    def _told(self, line: str, outcome: str) -> Lines:
        return [f"You did {line} and the outcome was: {outcome}." if self.verbose else f"{line}: {outcome}."]

    def _news(self, most: int) -> Lines:
        """Draw what is seen now; what is seen elsewhere than before was there before."""
        places = dict(self.place)
        lines = [note for line in super()._news(most) for note in self._noticed(line)]
        for name, room in places.items():
            if self.place.get(name, room) != room:
                self.before.setdefault(name, []).append(room)
        return lines

    def _noticed(self, line: str) -> Lines:
        """Tell what is seen in whole sentences, where all is told so."""
        if not self.verbose or not line.startswith("Seen: "):
            return [line]
        where = "{} steps ahead and {} steps to the {} of where you stand."
        sides = ("left", "right")
        return [
            f"You notice {name}, " + where.format(*self.rng.integers(0, 9, 2).tolist(), sides[int(self.rng.integers(2))])
            for name in line.removeprefix("Seen: ").removesuffix(".").split(", ")
        ]

    def _copy(self) -> Self:
        return replace(self, place=dict(self.place), ways=dict(self.ways), before={})


def _numbered(parts: list[Lines], number: int) -> str:
    """Write a plan: the first line for each goal with the goal's number."""
    return "\n".join(f"{at}. " + "\n".join(part) for at, part in enumerate(parts, number))


def misplanned_lesson(rng: np.random.Generator) -> list[TrainingMessage]:
    """Write one lesson in which half the plans that were played are wrong."""
    house = MisplannedHouse(rng, brief=bool(rng.random() < BRIEF), restless=RESTLESS, obstacles=2, verbose=bool(rng.random() < 0.5))
    return list(house.messages(int(rng.integers(6, 12))))
