"""Lessons of wrong plans: what a conversation looks like after plans that looked in the wrong place, and what to plan then.

In an expert's episodes the plan before always names the right places, so a planner learns to copy them from there. A student that
once was wrong then copies its own mistake. In these lessons a third of the plans that were played are wrong, and the right one
stands beside each as a label: places must be taken from what was seen, whatever was planned. Their sentences are those of
``envs.observation``, their plans those of the expert.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from benchmarks.recipes.planner.lessons import BRIEF, MOST_GOALS, numbered
from benchmarks.recipes.planner.locked_lessons import LockedHouse
from erecap.training.encoding import TrainingMessage

WRONG = 0.6
"""Share of the plans that are played wrongly, unless they happen to be right."""
SPOILED = 0.3
"""Share of these that have another first line. The others look for things where they are not."""
STUBBORN = 0.8
"""Probability that a mistaken place is planned again."""
SLIPS, CHANGES, GONE = 0.3, 0.3, 0.2
"""Why a plan ends at a line: the grip slipped, a goal changed, the thing is gone. Otherwise no reason is given."""
KNOWN = 0.97
"""Share of the things in goals that were seen."""
RESTLESS = 0.15
"""How often something goes wrong with the hand between two plans."""
EXPLORES = 4
"""Times that a plan explores at its end, where it does."""
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
    mistakes
        Things that were last planned to be found where they are not, and those rooms.
    tried
        A line that failed and changed nothing, with the number of its goal; empty where there is none.
    """

    verbose: bool = False
    before: defaultdict[str, Lines] = field(default_factory=lambda: defaultdict(Lines))
    mistakes: dict[str, str] = field(default_factory=dict)
    tried: str = ""

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
            lines = [*outcomes, *news, *self._listed(self._progress(done, goals), done, goals), *self._advice()]
            yield {"role": "user", "content": "\n".join(lines)}
            right = self._task_plan(goals)
            played = self._wrong(goals, right) if self.rng.random() < WRONG else right
            yield _plan_message(numbered(played, done + 1), numbered(right, done + 1))
            outcomes, reached = self._play(played, goals, done)
            goals, done = goals[reached:], done + reached
            self._trouble()

    def _advice(self) -> Lines:
        """Tell what was tried, where nothing has changed since."""
        tried, self.tried = self.tried, ""
        return [f"Nothing has changed since this was tried: {tried} (once)."] if tried and self.rng.random() < 0.5 else []

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
        return self._pick(names) if names and self.rng.random() < KNOWN else self._thing()

    def _task_plan(self, goals: Lines) -> list[Lines]:
        """Plan for goal after goal; where something is not known, explore as often as the expert does."""
        parts = super()._task_plan(goals)
        return [*parts[:-1], parts[-1] + ["explore"] * (EXPLORES - 1) if parts[-1][-1] == "explore" else parts[-1]]

    def _wrong(self, goals: Lines, right: list[Lines]) -> list[Lines]:
        """Plan with places that are out of date, or with another first line."""
        if self.rng.random() < SPOILED:
            kinds = (self._straight, self._another, self._dropping)
            return [self._pick(kinds)(right[0]), *right[1:]]
        imagined = self._copy()
        imagined.place |= self._mistaken(right)
        return imagined._task_plan(goals)

    def _mistaken(self, right: list[Lines]) -> dict[str, str]:
        """Draw for which things the wrong room is planned. What was mistaken before mostly is so again."""
        kept = {name: room for name, room in self.mistakes.items() if self.rng.random() < STUBBORN}
        named = [name for name in self.place if any(f"{name} in " in line for line in right[0])]
        moved = [name for name in (*named, *named, *self.place) if self.before.get(name)] or named or list(self.place)
        if not kept and moved:
            name = self._pick(moved)
            rooms = self.before.get(name) or [self._room()]
            kept[name] = self._pick(rooms)
        self.mistakes = {name: room for name, room in kept.items() if name in self.place and name not in self.ways}
        return self.mistakes

    def _straight(self, right: Lines) -> Lines:
        """Take a thing as if nothing stood in the way."""
        closed = [name for name, room in self.place.items() if self._blocked(room)]
        name = self._pick(closed) if closed and not self.held else ""
        return [f"pickup {name} in {self.place[name]}", *right[1:]] if name else self._another(right)

    def _another(self, right: Lines) -> Lines:
        """Take another thing."""
        near = [name for name in self.place if self._in_reach(name)]
        if not near:
            return right
        name = self._pick(near)
        return [*(["drop"] if self.held else []), f"pickup {name} in {self.place[name]}", *right[1:]]

    def _dropping(self, right: Lines) -> Lines:
        return ["drop", *right] if self.held else self._another(right)

    def _play(self, parts: list[Lines], goals: Lines, done: int) -> tuple[Lines, int]:
        """Carry out a plan up to a line that fails or a random one; return what is told, and how many goals were reached."""
        left, told = int(self.rng.integers(0, sum(map(len, parts)) + 1)), Lines()
        for reached, part in enumerate(parts):
            for number, line in enumerate(part):
                failure = self._failure(line)
                if failure:
                    self.tried = "" if told else line if number else f"{done + reached + 1}. {line}"
                    return [*told, *self._told(line, f"failed, {failure}")], reached
                if not left:
                    return [*told, *self._end(line, goals[reached:])], reached
                told += [*self._carry_out(line), self._progress(done + reached, goals[reached:])]
                left -= 1
            if part[-1] == "explore":
                return told, reached
        return told, len(parts)

    def _failure(self, line: str) -> str:
        """Tell why a line must fail; empty if it need not."""
        verb, _, rest = line.partition(" ")
        name, _, room = rest.rpartition(" in ")
        target = name.partition(" next to ")[2] or name
        if verb == "drop":
            return "" if self.held else "holding nothing"
        if verb == "put" and self.held != name.partition(" next to ")[0]:
            return f"not holding {name.partition(' next to ')[0]}"
        if verb == "pickup" and self.held:
            return f"already holding {self.held}"
        if name and not name.endswith(" door") and self.place.get(target) != room:
            return f"no {target} seen in {room}"
        way = self._blocked(room or rest)
        return "" if not way or line == "explore" else f"{way} locked" if way.endswith(" door") else f"way blocked by {way}"

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
        self.before[name].append(room)
        if self.rng.random() < 0.6:
            self.place[name] = self._free_room()
            return [*self._told(line, f"failed, {name} is gone"), f"Seen: {name} in {self.place[name]}."]
        return [*self._told(line, f"failed, {name} is gone"), f"Gone: {name}."]

    def _carry_out(self, line: str) -> Lines:
        """Carry out a line, and tell where the thing that was laid down lies now."""
        name = line.removeprefix("pickup ").rpartition(" in ")[0]
        if line.startswith("pickup ") and name in self.place:
            self.before[name].append(self.place[name])
        self._do(line)
        seen, self.noted = self.noted, []
        return [*self._told(line, "ok"), *(note for line in seen for note in self._noticed(line))]

    def _told(self, line: str, outcome: str) -> Lines:
        return [f"You did {line} and the outcome was: {outcome}." if self.verbose else f"{line}: {outcome}."]

    def _news(self, most: int) -> Lines:
        """Draw what is seen now; what is seen elsewhere than before was there before."""
        places = dict(self.place)
        lines = [note for line in super()._news(most) for note in self._noticed(line)]
        for name, room in places.items():
            if self.place.get(name, room) != room:
                self.before[name].append(room)
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


def _plan_message(played: str, right: str) -> TrainingMessage:
    if played == right:
        return {"role": "assistant", "content": right}
    return {"role": "assistant", "content": played, "train": False, "label": right}


def misplanned_lesson(rng: np.random.Generator) -> list[TrainingMessage]:
    """Write one lesson in which plans that were played are wrong, about one in three."""
    house = MisplannedHouse(rng, brief=bool(rng.random() < BRIEF), restless=RESTLESS, obstacles=2, verbose=bool(rng.random() < 0.5))
    return list(house.messages(int(rng.integers(6, 12))))
