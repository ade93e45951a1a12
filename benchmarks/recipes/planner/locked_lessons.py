"""Lessons about locked doors: what lies behind one must wait until its key has been fetched and the door unlocked.

A whole plan for a thing in a blocked room takes three looks: in which room the thing was seen, by which door that room is blocked,
and where the key of the door's color was seen. Episodes ask for that now and then, at thousands of tokens each; these lessons ask
for it all the time. Their sentences are those of ``envs.observation``, their plans those of the expert.
"""

from dataclasses import dataclass, field

import numpy as np
from minigrid.core.constants import COLOR_NAMES

from benchmarks.recipes.planner.lessons import BRIEF, Lesson, written
from envs.observation.names import ROOM_NAMES
from erecap.training.encoding import TrainingMessage

MOST_DOORS = 3
"""Locked doors of a house at most."""
ROUNDS = 4
"""How often a way may have to be cleared for one goal."""


@dataclass
class LockedHouse(Lesson):
    """An imagined house with locked doors.

    Attributes
    ----------
    doors
        Locked doors by color: the room from which one is unlocked, and the rooms behind it.
    """

    doors: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)

    def _blocked(self, room: str) -> str:
        """Return the color of the door that blocks the way to a room; empty where none does."""
        return next((color for color, (_, rooms) in self.doors.items() if room in rooms), "")

    def _free_rooms(self) -> list[str]:
        return [room for room in ROOM_NAMES if not self._blocked(room)]

    def _free_room(self) -> str:
        rooms = self._free_rooms()
        return rooms[int(self.rng.integers(len(rooms)))]

    def _news(self, most: int) -> list[str]:
        """Draw what is seen now and which doors are locked; keys lie where they can be reached."""
        if not self.doors:
            self._lock(int(self.rng.integers(1, MOST_DOORS + 1)))
        lines = super()._news(most)
        hidden = [f"{color} key" for color in self.doors if f"{color} key" in self.place or self.rng.random() < 0.7]
        keys = {name: self._free_room() for name in hidden if name != self.held and self._blocked(self.place.get(name, "")) != ""}
        keys |= {name: self._free_room() for name in hidden if name != self.held and name not in self.place}
        self.place |= keys
        if keys:
            lines.append("Seen: " + ", ".join(f"{name} in {room}" for name, room in keys.items()) + ".")
        return [*lines, self._status()]

    def _lock(self, count: int) -> None:
        """Lock doors, each with rooms of its own behind it."""
        rooms = [room for room in self.rng.permutation(ROOM_NAMES).tolist() if room != self.here]
        for color in self.rng.permutation(COLOR_NAMES).tolist()[:count]:
            behind = [rooms.pop() for _ in range(int(self.rng.integers(1, 3))) if len(rooms) > 2]
            if behind:
                self.doors[color] = ("", tuple(behind))
        self.doors = {color: (self._free_room(), rooms_behind) for color, (_, rooms_behind) in self.doors.items()}

    def _status(self) -> str:
        doors = {color: f"{color} door in {side}" for color, (side, _) in self.doors.items()}
        blocked = [f"{room} by {doors[color]}" for color, (_, rooms) in self.doors.items() for room in rooms]
        listed = f" Locked: {', '.join(doors.values())}. Blocked: {', '.join(blocked)}." if doors else ""
        return f"Rooms: {', '.join(self.rng.permutation(ROOM_NAMES).tolist())}. Unexplored: yes.{listed}"

    def _hindrances(self, name: str) -> list[str]:
        if name.endswith(" door"):
            color = name.split()[0]
            return self._key_hindrances(color) if color in self.doors else [f"{name} not found"]
        color = self._blocked(name if name in ROOM_NAMES else self.place.get(name, ""))
        if not color or name == self.held:
            return super()._hindrances(name)
        return [f"{name} blocked by {color} door in {self.doors[color][0]}", *self._key_hindrances(color)]

    def _key_hindrances(self, color: str, looked_for: tuple[str, ...] = ()) -> list[str]:
        """List what keeps the agent from the key of a door; ``looked_for`` are the colors of the doors before it."""
        key = f"{color} key"
        if color in looked_for or key == self.held:
            return []
        behind = self._blocked(self.place.get(key, ""))
        if not behind:
            return super()._hindrances(key)
        return [f"{key} blocked by {behind} door in {self.doors[behind][0]}", *self._key_hindrances(behind, (*looked_for, color))]

    def _goal(self) -> str:
        if self.doors and self.rng.random() < 0.15:
            return f"unlock {self.rng.choice(list(self.doors))} door"
        return super()._goal()

    def _plan(self, goal: str) -> list[str]:
        """Plan for one goal as the expert does: where a way is blocked, only up to the unlocked door."""
        if goal.startswith("unlock "):
            return self._unlock(goal.split()[1])
        return super()._plan(goal)

    def _unlock(self, color: str, unlocking: tuple[str, ...] = ()) -> list[str]:
        """Fetch the key and unlock the door; search where the key is unknown, or behind the door itself."""
        key = f"{color} key"
        if color not in self.doors or color in unlocking:
            return ["explore"]
        last = f"unlock {color} door in {self.doors[color][0]}"
        if self.held == key:
            return [last]
        behind = self._blocked(self.place.get(key, ""))
        if behind:
            return self._unlock(behind, (*unlocking, color))
        fetch = self._fetch(key)
        return [*fetch, last] if fetch[-1].startswith(f"pickup {key} ") else fetch

    def _fetch(self, name: str) -> list[str]:
        color = self._blocked(self.place.get(name, ""))
        return self._unlock(color) if color else super()._fetch(name)

    def _carry(self, name: str, last: list[str]) -> list[str]:
        fetch = [] if self.held == name else self._fetch(name)
        if fetch and not fetch[-1].startswith(f"pickup {name} "):
            return fetch
        target = last[0].rpartition(" in ")[2].removeprefix("goto ") if last and last[0] != "drop" else ""
        color = self._blocked(target)
        if color:
            return self._unlock(color)
        return [*fetch, *last]

    def _reached(self, goal: str, plan: list[str]) -> bool:
        """Tell whether a plan, which has been carried out, reaches its goal."""
        verb, _, rest = goal.partition(" ")
        if verb == "pick":
            return self.held == rest.removeprefix("up ")
        if verb == "bring":
            return plan[-1] == "drop" and self.place.get(rest.partition(" to ")[0]) == rest.partition(" to ")[2]
        starts = {"go": f"goto {rest.removeprefix('to ')} in", "put": "put ", "unlock": f"unlock {rest}"}
        return plan[-1].startswith(starts[verb])

    def _after(self, goal: str, plan: list[str]) -> str:
        for line in plan:
            self._do(line)
        return self._goal() if self._reached(goal, plan) or self.rng.random() < 0.2 else goal

    def _task_plan(self, goals: list[str]) -> list[list[str]]:
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

    def _copy(self) -> "LockedHouse":
        return LockedHouse(self.rng, dict(self.place), self.held, self.here, self.brief, dict(self.doors))

    def _do(self, line: str) -> None:
        if line.startswith("unlock "):
            color = line.split()[1]
            self.here = self.doors[color][0]
            del self.doors[color]
        elif line == "explore":
            self.here = self._free_room()
        else:
            super()._do(line)


def locked_lesson(rng: np.random.Generator) -> list[TrainingMessage]:
    """Write one lesson as chat messages, as ``encode_episode`` reads them."""
    return written(LockedHouse(rng, brief=bool(rng.random() < BRIEF)), int(rng.integers(6, 12)))
