"""Lessons: short synthetic episodes that train a planner to look things up in its context.

A lesson is a conversation of short observations and plans about an imagined house. Things appear, move and vanish, and each goal
asks for something that was seen some turns ago. The sentences are those of ``envs.observation``. A lesson has twice as many plans
per token as an episode (one per hundred), so the planner learns sooner to copy and to look up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import numpy as np
from minigrid.core.constants import COLOR_NAMES

from agents.gridworld.goal_text import things_named
from envs.observation.names import ROOM_NAMES
from erecap.training.encoding import TrainingMessage

T = TypeVar("T")
LESSON_KINDS = ("ball", "key", "box")
"""Types of the things in the imagined house."""
BRIEF = 0.7
"""Share of the lessons whose observations hold only what the plan needs."""
ROUNDS = 4
"""How often a way may have to be cleared for one goal."""
WHOLE_TASK = 0.5
"""Share of the lessons whose plans cover several goals."""
MOST_GOALS = 16
"""Largest number of a subgoal that is one token."""
Turn = tuple[str, str]
"""An observation and the plan that answers it."""


@dataclass
class Lesson:
    """The state of an imagined house.

    Attributes
    ----------
    rng
        Generator of all random draws.
    place
        The room in which each thing was last seen.
    held
        The thing that the agent holds; empty for none.
    here
        The room that the agent is in.
    brief
        Whether observations hold only what the plan needs.
    restless
        Probability that something goes wrong with the hand between two plans, 0..1: what it held falls, or it holds another thing.
        The next plan must begin with what the hand holds now.
    noted
        Lines for the next observation: where what was laid down, or fell, lies now.
    """

    rng: np.random.Generator
    place: dict[str, str] = field(default_factory=dict)
    held: str = ""
    here: str = "kitchen"
    brief: bool = False
    restless: float = 0.0
    noted: list[str] = field(default_factory=list)

    def turns(self, count: int) -> Iterator[Turn]:
        """Write ``count`` observations with their plans."""
        self.here = self._room()
        outcomes: list[str] = []
        goal = self._goal()
        for number in range(count):
            lines = self._news(12 if number == 0 and self.brief else 4)
            here = f"{self._situation()} Goal: {goal}."
            lines = [*lines, here] if self.brief else [*outcomes, *lines, f"Progress {number}/{count}. {here}"]
            plan = self._plan(goal)
            yield "\n".join(lines), "\n".join(plan)
            outcomes = [f"{line}: ok." for line in plan]
            goal = self._after(goal, plan)
            self._trouble()

    def task_turns(self, count: int) -> Iterator[Turn]:
        """Write ``count`` observations that name several goals, with plans for all of them; each plan is carried out in part."""
        self.here = self._room()
        goals: list[str] = []
        done = 0
        for number in range(count):
            lines = self._news(12 if number == 0 and self.brief else 4)
            goals += [self._goal() for _ in range(int(self.rng.integers(2, 7)) - len(goals))]
            here = self._situation() if self.brief else self._progress(done, goals)
            parts = self._task_plan(goals)
            yield "\n".join([*lines, *self._listed(here, done, goals)]), numbered(parts, done + 1)
            reached = self._carry_out_some(parts)
            self._trouble()
            goals, done = goals[reached:], done + reached

    def _situation(self) -> str:
        return f"You are in {self.here}, holding {self.held or 'nothing'}."

    def _progress(self, done: int, goals: list[str]) -> str:
        return f"Progress {done}/{done + len(goals)}. {self._situation()}"

    def _listed(self, here: str, done: int, goals: list[str]) -> list[str]:
        """List the open goals with their numbers, behind the line that says where the agent is."""
        return [f"{here} Goals:", *(f"{at}. {self._with_hindrances(goal)}" for at, goal in enumerate(goals, done + 1))]

    def _with_hindrances(self, goal: str) -> str:
        """Write a goal, and in brackets what keeps the agent from it, as an observation does."""
        found = ", ".join(dict.fromkeys(note for name in things_named(goal) for note in self._hindrances(name)))
        return f"{goal} ({found})" if found else goal

    def _hindrances(self, name: str) -> list[str]:
        """List what keeps the agent from a thing or a room."""
        return [] if name in ROOM_NAMES or name in self.place or name == self.held else [f"{name} not found"]

    def _task_plan(self, goals: list[str]) -> list[list[str]]:
        """Plan for goal after goal as if each plan had been carried out; stop at the first thing that is not known."""
        ahead, parts = self._copy(), list[list[str]]()
        for goal in goals:
            parts.append([])
            for _ in range(ROUNDS):
                lines = ahead._plan(goal)
                parts[-1] += lines
                if lines[-1] == "explore":
                    return parts
                for line in lines:
                    ahead._do(line)
                if ahead._reached(goal, lines):
                    break
            else:
                return parts
        return parts

    def _copy(self) -> Self:
        return replace(self, place=dict(self.place), noted=[])

    def _reached(self, goal: str, plan: list[str]) -> bool:
        """Tell whether a plan, which has been carried out, reaches its goal."""
        verb, _, rest = goal.partition(" ")
        if verb == "pick":
            return self.held == rest.removeprefix("up ")
        if verb == "bring":
            return plan[-1] == "drop" and self.place.get(rest.partition(" to ")[0]) == rest.partition(" to ")[2]
        starts = {"go": f"goto {rest.removeprefix('to ')} in", "put": "put ", "unlock": f"unlock {rest}"}
        return plan[-1].startswith(starts[verb])

    def _trouble(self) -> None:
        """Sometimes let fall what is held, or put another thing into the hand; what was held lies where the agent is."""
        if not self.restless or self.rng.random() >= self.restless:
            return
        near = [name for name in self.place if self._in_reach(name)]
        fell, falls_only = self.held, self.rng.random() < 0.5
        if fell:
            self._lay_down(self.here)
        if near and not (fell and falls_only):
            self.held = self._pick(near)
            self.here = self.place.pop(self.held)

    def _lay_down(self, room: str) -> None:
        """Leave what is held in a room; the next observation says so, as an outcome would."""
        self.noted.append(f"Seen: {self.held} in {room}.")
        self.place[self.held], self.held = room, ""

    def _in_reach(self, name: str) -> bool:
        """Tell whether the agent could have taken a thing."""
        return name in self.place

    def _carry_out_some(self, parts: list[list[str]]) -> int:
        """Carry out the first lines of a plan; return how many goals that reaches."""
        left = int(self.rng.integers(1, sum(map(len, parts)) + 1))
        for number, part in enumerate(parts):
            for line in part[:left]:
                self._do(line)
            left -= len(part)
            if left < 0 or part[-1] == "explore":
                return number
        return len(parts)

    def _pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def _room(self) -> str:
        return self._pick(ROOM_NAMES)

    def _thing(self) -> str:
        color = self._pick(COLOR_NAMES)
        return f"{color} {self._pick(LESSON_KINDS)}"

    def _some(self) -> str:
        """Draw a thing, mostly one that was seen before."""
        names = list(self.place)
        return self._pick(names) if names and self.rng.random() < 0.85 else self._thing()

    def _news(self, most: int) -> list[str]:
        """Draw things that are seen now, some in another room than before, and one that is gone."""
        count = most if most > 4 else int(self.rng.integers(0, 2 if self.brief else 5))
        seen = {name: self._room() for name in (self._thing() for _ in range(count)) if name != self.held}
        self.place |= seen
        lines, self.noted = self.noted, []
        lines += ["Seen: " + ", ".join(f"{name} in {room}" for name, room in seen.items()) + "."] if seen else []
        old = [name for name in self.place if name not in seen]
        if old and self.rng.random() < 0.1:
            lost = self._pick(old)
            del self.place[lost]
            lines.append(f"Gone: {lost}.")
        return lines

    def _goal(self) -> str:
        thing, other = self._some(), self._some()
        kinds = [f"bring {thing} to {self._room()}", f"pick up {thing}", f"go to {thing}"]
        kinds += [f"put {thing} next to {other}"] if thing != other else []
        return self._pick(kinds)

    def _plan(self, goal: str) -> list[str]:
        if goal.startswith("go to "):
            name = goal.removeprefix("go to ")
            return [f"goto {name} in {self.place[name]}"] if name in self.place else ["explore"]
        if goal.startswith("pick up "):
            return self._fetch(goal.removeprefix("pick up "))
        if goal.startswith("bring "):
            name, _, room = goal.removeprefix("bring ").partition(" to ")
            return self._carry(name, [*([] if self._beside(name, room) else [f"goto {room}"]), "drop"])
        name, _, target = goal.removeprefix("put ").partition(" next to ")
        last = [f"put {name} next to {target} in {self.place[target]}"] if target in self.place else []
        return self._carry(name, last) if last or self.held != name else ["explore"]

    def _beside(self, name: str, room: str) -> bool:
        return (self.here if self.held == name else self.place.get(name)) == room

    def _carry(self, name: str, last: list[str]) -> list[str]:
        fetch = [] if self.held == name else self._fetch(name)
        return fetch if fetch == ["explore"] else fetch + last

    def _fetch(self, name: str) -> list[str]:
        if name not in self.place:
            return ["explore"]
        return [*(["drop"] if self.held else []), f"pickup {name} in {self.place[name]}"]

    def _after(self, goal: str, plan: list[str]) -> str:
        """Carry out the plan and return the next goal. A goal that is not reached mostly stays the same."""
        for line in plan:
            self._do(line)
        reached = plan != ["explore"] and not (goal.startswith("put ") and not plan[-1].startswith("put "))
        return self._goal() if reached or self.rng.random() < 0.3 else goal

    def _do(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        thing, _, room = rest.rpartition(" in ")
        if verb == "drop" and self.held:
            self._lay_down(self.here)
        elif verb == "pickup":
            self.here, self.held = room, thing
            self.place.pop(thing, None)
        elif verb == "put":
            self.here = room
            self._lay_down(room)
        elif verb == "goto":
            self.here = room or rest
        else:
            self.here = self._room()


def numbered(parts: Sequence[Sequence[str]], number: int) -> str:
    """Write a plan: the lines for goal after goal, the first line for each with its number, from ``number`` on."""
    return "\n".join(f"{at}. " + "\n".join(part) for at, part in enumerate(parts, number))


def lesson(rng: np.random.Generator) -> list[TrainingMessage]:
    """Write one lesson as chat messages, as ``encode_episode`` reads them."""
    brief = bool(rng.random() < BRIEF)
    return written(Lesson(rng, brief=brief), int(rng.integers(8, 16) if brief else rng.integers(4, 14)))


def written(house: Lesson, count: int) -> list[TrainingMessage]:
    """Write turns in a house as chat messages: ``count`` with one goal each, or half as many with several."""
    turns = house.task_turns((count + 1) // 2) if house.rng.random() < WHOLE_TASK else house.turns(count)
    messages: list[TrainingMessage] = []
    for observation, plan in turns:
        messages += [{"role": "user", "content": observation}, {"role": "assistant", "content": plan}]
    return messages
