"""Which subgoals a household asks for: each one makes sense where the ones before it have left things."""

from typing import TYPE_CHECKING

import numpy as np

from envs.household.subgoals import Subgoal

if TYPE_CHECKING:
    from envs.household.env import HouseholdEnv


class TaskWriter:
    """Writes subgoals one after the other, following where they leave the things."""

    def __init__(self, env: "HouseholdEnv", rng: np.random.Generator) -> None:
        self.env, self.rng = env, rng
        self.room_of = {name: env.room_of_thing(name) for name in env.movable_names()}
        self.full = {name for name in env.box_names() if env.things[name].contains is not None}
        self.in_box = {name for name in env.movable_names() if env.container_of(env.things[name]) is not None}
        self.touched: set[str] = set()

    def write(self, kinds: tuple[str, ...], count: int) -> list[Subgoal]:
        """``count`` subgoals of the given kinds (repeats weigh more); fewer where these kinds offer no more."""
        goals: list[Subgoal] = []
        for _ in range(50 * count):
            if len(goals) == count:
                break
            goal = self._one(kinds[int(self.rng.integers(len(kinds)))])
            if goal is not None and goal not in goals:
                goals.append(goal)
        return goals

    def _one(self, kind: str) -> Subgoal | None:
        writer = getattr(self, f"_{kind}")
        goal: Subgoal | None = writer()
        return goal

    def _pick(self, names: list[str]) -> str | None:
        return names[int(self.rng.integers(len(names)))] if names else None

    def _bring(self) -> Subgoal | None:
        thing = self._pick(self._free_things())
        if thing is None:
            return None
        rooms = [name for i, name in enumerate(self.env.room_names) if i != self.room_of[thing]]
        room = rooms[int(self.rng.integers(len(rooms)))]
        self._leave(thing, self.env.room_names.index(room))
        return Subgoal("bring", thing, room)

    def _next_to(self) -> Subgoal | None:
        thing = self._pick(self._free_things())
        others = [n for n in (*self.room_of, *self.env.box_names()) if n != thing and n not in self.in_box]
        target = self._pick(others)
        if thing is None or target is None:
            return None
        self._leave(thing, self.room_of.get(target, self.env.room_of_thing(target)))
        return Subgoal("next_to", thing, target)

    def _inside(self) -> Subgoal | None:
        thing = self._pick(self._free_things())
        box = self._pick([name for name in self.env.box_names() if name not in self.full])
        if thing is None or box is None:
            return None
        self._leave(thing, self.env.room_of_thing(box))
        self.full.add(box)
        self.in_box.add(thing)
        return Subgoal("inside", thing, box)

    def _open(self) -> Subgoal | None:
        door = self._pick([n for n, d in self.env.door_items() if not d.is_open and n not in self.touched])
        return None if door is None else self._touch("open", door)

    def _unlock(self) -> Subgoal | None:
        door = self._pick([n for n, d in self.env.door_items() if d.is_locked and n not in self.touched])
        return None if door is None else self._touch("unlock", door)

    def _inspect(self) -> Subgoal | None:
        room = self._pick([name for name in self.env.room_names if name not in self.touched])
        return None if room is None else self._touch("inspect", room)

    def _touch(self, kind: str, name: str) -> Subgoal:
        self.touched.add(name)
        return Subgoal(kind, name)

    def _free_things(self) -> list[str]:
        """Movable things, unused ones first; the keys of locked doors are needed elsewhere."""
        locks = {f"{door.color} key" for _, door in self.env.door_items() if door.is_locked}
        names = [name for name in self.room_of if name not in locks]
        return [name for name in names if name not in self.touched] or names

    def _leave(self, thing: str, room: int) -> None:
        """Follow the thing to where this subgoal leaves it."""
        box = self.env.container_of(self.env.things[thing])
        if thing in self.in_box and box is not None:
            self.full.discard(f"{box.color} box")
        self.in_box.discard(thing)
        self.room_of[thing] = room
        self.touched.add(thing)


def tour(env: "HouseholdEnv", count: int) -> list[Subgoal]:
    """Inspect ``count`` rooms, nearest first as a walk through the house comes to them."""
    return [Subgoal("inspect", env.room_names[room]) for room in env.rooms_by_walk()[:count]]
