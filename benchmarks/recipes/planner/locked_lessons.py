"""Lessons about locked doors: what lies behind one must wait until its key has been fetched and the door unlocked.

A whole plan for a thing in a blocked room takes three looks: in which room the thing was seen, by which door that room is blocked,
and where the key of the door's color was seen. Episodes ask for that now and then, at thousands of tokens each; these lessons ask
for it all the time. Their sentences are those of ``envs.observation``, their plans those of the expert.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from minigrid.core.constants import COLOR_NAMES

from benchmarks.recipes.planner.lessons import BRIEF, Lesson, written
from envs.observation.names import ROOM_NAMES
from erecap.training.encoding import TrainingMessage

MOST_DOORS = 3
"""Locked doors of a house at most."""
RESTLESS = 0.4
"""How often something goes wrong with the hand between two plans of a troubled lesson."""


@dataclass
class LockedHouse(Lesson):
    """An imagined house with locked doors, and with things that stand in the way.

    Attributes
    ----------
    ways
        What blocks a way, by its name, such as "red door" or, in a doorway, "green ball": the room from which it is cleared, and
        the rooms behind it.
    obstacles
        Most things that stand in a way.
    """

    ways: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    obstacles: int = 0

    def _blocked(self, room: str) -> str:
        """Return the name of what blocks the way to a room; empty where nothing does."""
        return next((name for name, (_, rooms) in self.ways.items() if room in rooms), "")

    def _free_rooms(self) -> list[str]:
        return [room for room in ROOM_NAMES if not self._blocked(room)]

    def _free_room(self) -> str:
        rooms = self._free_rooms()
        return self._pick(rooms)

    def _doors(self) -> list[str]:
        return [name for name in self.ways if name.endswith(" door")]

    def _news(self, most: int) -> list[str]:
        """Draw what is seen now and which ways are blocked; keys lie where they can be reached."""
        fresh = not self.ways
        if fresh:
            self._lock(int(self.rng.integers(1, MOST_DOORS + 1)))
        lines = super()._news(most)
        colors = [door.removesuffix(" door") for door in self._doors()]
        hidden = [f"{color} key" for color in colors if f"{color} key" in self.place or self.rng.random() < 0.7]
        keys = {name: self._free_room() for name in hidden if name != self.held and self._blocked(self.place.get(name, "")) != ""}
        keys |= {name: self._free_room() for name in hidden if name != self.held and name not in self.place}
        self.place |= keys
        if fresh:
            keys |= {name: self.place[name] for name in self.ways if name in self.place}
        if keys:
            lines.append("Seen: " + ", ".join(f"{name} in {room}" for name, room in keys.items()) + ".")
        return [*lines, self._status()]

    def _lock(self, count: int) -> None:
        """Lock doors, and put things in the way, each with rooms of its own behind it."""
        rooms = [room for room in self.rng.permutation(ROOM_NAMES).tolist() if room != self.here]
        names = [f"{color} door" for color in self.rng.permutation(COLOR_NAMES).tolist()[:count]]
        if self.obstacles:
            names += [f"{self.rng.choice(COLOR_NAMES)} ball" for _ in range(int(self.rng.integers(0, self.obstacles + 1)))]
        for name in names:
            behind = [rooms.pop() for _ in range(int(self.rng.integers(1, 3))) if len(rooms) > 2]
            if behind and name not in (*self.ways, self.held):
                self.ways[name] = ("", tuple(behind))
        self.ways = {name: (self._free_room(), rooms_behind) for name, (_, rooms_behind) in self.ways.items()}
        self.place |= {name: room for name, (room, _) in self.ways.items() if not name.endswith(" door")}

    def _thing(self) -> str:
        """Draw a thing that stands in no way: what does so stays there until the agent takes it away, and is in no goal."""
        name = super()._thing()
        return name if name not in self.ways else self._thing()

    def _some(self) -> str:
        name = super()._some()
        return name if name not in self.ways else self._thing()

    def _in_reach(self, name: str) -> bool:
        return super()._in_reach(name) and name not in self.ways and not self._blocked(self.place[name])

    def _status(self) -> str:
        where = {name: f"{name} in {side}" for name, (side, _) in self.ways.items()}
        blocked = [f"{room} by {where[name]}" for name, (_, rooms) in self.ways.items() for room in rooms]
        locked = [where[name] for name in self._doors()]
        listed = (f" Locked: {', '.join(locked)}." if locked else "") + (f" Blocked: {', '.join(blocked)}." if blocked else "")
        return f"Rooms: {', '.join(self.rng.permutation(ROOM_NAMES).tolist())}. Unexplored: yes.{listed}"

    def _hindrances(self, name: str) -> list[str]:
        if name.endswith(" door"):
            return self._way_hindrances(name) if name in self.ways else [f"{name} not found"]
        way = self._blocked(name if name in ROOM_NAMES else self.place.get(name, ""))
        if not way or name == self.held:
            return super()._hindrances(name)
        return [f"{name} blocked by {way} in {self.ways[way][0]}", *self._way_hindrances(way)]

    def _way_hindrances(self, way: str, looked_for: tuple[str, ...] = ()) -> list[str]:
        """List what keeps the agent from clearing a way; ``looked_for`` are the ways before it."""
        thing = self._remover(way)
        if way in looked_for or thing == self.held:
            return []
        behind = self._blocked(self.place.get(thing, ""))
        if not behind:
            return super()._hindrances(thing)
        return [f"{thing} blocked by {behind} in {self.ways[behind][0]}", *self._way_hindrances(behind, (*looked_for, way))]

    def _remover(self, way: str) -> str:
        """Return the thing that the agent must take to clear a way: the key of a door, or what stands there."""
        return f"{way.removesuffix(' door')} key" if way.endswith(" door") else way

    def _goal(self) -> str:
        doors = self._doors()
        if doors and self.rng.random() < 0.15:
            return f"unlock {self.rng.choice(doors)}"
        return super()._goal()

    def _plan(self, goal: str) -> list[str]:
        """Plan for one goal as the expert does: where a way is blocked, only up to its clearing."""
        if goal.startswith("unlock "):
            return self._clear(goal.removeprefix("unlock "))
        way = self._blocked(self.place.get(goal.removeprefix("go to "), "")) if goal.startswith("go to ") else ""
        return self._clear(way) if way else super()._plan(goal)

    def _clear(self, way: str, clearing: tuple[str, ...] = ()) -> list[str]:
        """Fetch the key and unlock the door, or take away what stands there; search where the key is unknown, or behind itself."""
        thing = self._remover(way)
        if way not in self.ways or way in clearing:
            return ["explore"]
        last = f"unlock {way} in {self.ways[way][0]}" if way.endswith(" door") else "drop"
        if self.held == thing:
            return [last]
        behind = self._blocked(self.place.get(thing, ""))
        if behind:
            return self._clear(behind, (*clearing, way))
        fetch = super()._fetch(thing)
        return [*fetch, last] if fetch[-1].startswith(f"pickup {thing} ") else fetch

    def _fetch(self, name: str) -> list[str]:
        way = self._blocked(self.place.get(name, ""))
        return self._clear(way) if way else super()._fetch(name)

    def _carry(self, name: str, last: list[str]) -> list[str]:
        fetch = [] if self.held == name else self._fetch(name)
        if fetch and not fetch[-1].startswith(f"pickup {name} "):
            return fetch
        target = last[0].rpartition(" in ")[2].removeprefix("goto ") if last and last[0] != "drop" else ""
        way = self._blocked(target)
        if way:
            return self._clear(way)
        return [*fetch, *last]

    def _after(self, goal: str, plan: list[str]) -> str:
        for line in plan:
            self._do(line)
        return self._goal() if self._reached(goal, plan) or self.rng.random() < 0.2 else goal

    def _copy(self) -> Self:
        return replace(self, place=dict(self.place), ways=dict(self.ways), noted=[])

    def _do(self, line: str) -> None:
        if line.startswith("unlock "):
            door = line.removeprefix("unlock ").partition(" in ")[0]
            self.here = self.ways[door][0]
            del self.ways[door]
        elif line == "explore":
            self.here = self._free_room()
        else:
            super()._do(line)
            if self.held in self.ways:
                del self.ways[self.held]


def locked_lesson(rng: np.random.Generator) -> list[TrainingMessage]:
    """Write one lesson as chat messages, as ``encode_episode`` reads them."""
    return written(LockedHouse(rng, brief=bool(rng.random() < BRIEF)), int(rng.integers(6, 12)))


def troubled_lesson(rng: np.random.Generator) -> list[TrainingMessage]:
    """Write one lesson in which the hand often holds something else than the plan expected, and things stand in the way."""
    house = LockedHouse(rng, brief=bool(rng.random() < BRIEF), restless=RESTLESS, obstacles=2)
    return written(house, int(rng.integers(8, 16)))
