"""The expert: plans for the open subgoal from the agent's belief, anew at every replan.

It knows what the agent has seen and no more. Its plan depends only on what the text of the situation says and on where things were
seen last, so that a language model can learn it from the text. It labels the training data and is the upper row of every table.
"""

import time
from collections.abc import Callable

from agents.belief import Belief, Thing
from agents.situation import BEYOND, Situation, assess
from envs.names import DOOR, KEY, LOCKED, thing_name
from planner import Generation, LineCallback, Prompt, Sampling

Lines = list[str]


class _Planner:
    """One planning problem: the belief, the situation, and the open subgoal."""

    def __init__(self, belief: Belief) -> None:
        self.belief, self.situation = belief, assess(belief)
        self._unlocking: set[str] = set()

    # ---- subgoals --------------------------------------------------------------------------------------------------------------

    def plan(self, subgoal: str) -> Lines:
        """Lines of the plan. Raises ``ValueError`` for a subgoal of an unknown form."""
        for prefix, planner in _SUBGOALS:
            if subgoal.startswith(prefix):
                return planner(self, subgoal.removeprefix(prefix))[:6] or ["explore"]
        raise ValueError(f"subgoal {subgoal!r} is of no known form: it must begin with one of {[p.strip() for p, _ in _SUBGOALS]}")

    def bring(self, rest: str) -> Lines:
        name, _, room = rest.partition(" to ")
        if not self._holds(name):
            fetch = self._fetch(name)
            return fetch if not self._ends_with_pickup(fetch, name) else fetch + self._carry(room, fetch, ["drop"])
        return self._carry(room, [], ["drop"])

    def put(self, rest: str) -> Lines:
        joint = " next to " if " next to " in rest else " in "
        name, _, target = rest.partition(joint)
        last = [f"put {name}{joint}{target}"]
        box = self._known(target, carried_counts=False) if joint == " in " else None
        if box is not None and box.content is not None:
            return self._empty(box)
        if not self._holds(name):
            fetch = self._fetch(name)
            return fetch if not self._ends_with_pickup(fetch, name) else fetch + self._to_thing(target, fetch, last)
        return self._to_thing(target, [], last)

    def open(self, name: str) -> Lines:
        return self._door(name, f"open {name}")

    def unlock(self, name: str) -> Lines:
        return self._door(name, f"unlock {name}")

    def go_to(self, name: str) -> Lines:
        return self._to_thing(name, [], [f"goto {name}"])

    def pick_up(self, name: str) -> Lines:
        return self._fetch(name)

    def inspect(self, room: str) -> Lines:
        if not self._knows(room):
            return self._find()
        lines = self._go(room)
        return lines if self._interrupted(lines, room) else [*lines, "explore"]

    # ---- parts -----------------------------------------------------------------------------------------------------------------

    def _fetch(self, name: str) -> Lines:
        """Get the thing into the hand."""
        thing = self._known(name)
        if thing is None:
            return self._find()
        if thing.name in self.situation.blocked:
            return self._clear(thing.name)
        room = self._side(thing)
        lines = self._go(room)
        if self._interrupted(lines, room):
            return lines
        return [*self._free_hand(), *lines, f"pickup {name}"]

    def _carry(self, room: str, before: Lines, last: Lines) -> Lines:
        """With the thing in hand into the room, then ``last``."""
        if not self._knows(room):
            return [] if before else self._find()
        here = self._room_after(before)
        if room in self.situation.blocked:
            return [] if before else self._clear(room)
        return [*([] if here == room else [f"goto {room}"]), *last]

    def _to_thing(self, name: str, before: Lines, last: Lines) -> Lines:
        """To the room of a thing (with what is in hand), then ``last``."""
        thing = self._known(name, carried_counts=False)
        if thing is None:
            return [] if before else self._find()
        if thing.name in self.situation.blocked:
            return [] if before else self._clear(thing.name)
        return self._carry(self._side(thing), before, last)

    def _door(self, name: str, last: str) -> Lines:
        door = self._nearest([t for t in self.belief.find(name) if t.kind == DOOR])
        if door is None:
            return self._find()
        if door.state == LOCKED:
            return self._unlock(door)
        if door.name in self.situation.blocked:
            return self._clear(door.name)
        return self._carry(self._side(door), [], [last])

    def _unlock(self, door: Thing) -> Lines:
        """Fetch the key if need be, go to the door, unlock it; a key behind its own door must be somewhere else by now."""
        if door.name in self._unlocking:
            return ["explore"]
        self._unlocking.add(door.name)
        room, key = self._door_side(door), thing_name(KEY, door.color)
        if self._holds(key):
            lines = self._go(room)
            return lines if self._interrupted(lines, room) else [*lines, f"unlock {door.name}"]
        if self._known(key) is None:
            return self._find(looking_for_key=True)
        fetch = self._fetch(key)
        if not self._ends_with_pickup(fetch, key):
            return fetch
        return [*fetch, *([] if self._room_after(fetch) == room else [f"goto {room}"]), f"unlock {door.name}"]

    def _go(self, room: str) -> Lines:
        """To a known room; where the way is stopped, what clears it first."""
        if room == self.belief.here_name:
            return []
        return self._clear(room) if room in self.situation.blocked else [f"goto {room}"]

    def _clear(self, goal: str) -> Lines:
        """Unlock the door, or move the thing, that stops the way to what is ``blocked``; look around where no way is known."""
        obstacle = self.situation.blocked[goal]
        if obstacle is None:
            return self._find()
        if obstacle.thing.kind == DOOR:
            return self._unlock(obstacle.thing)
        return [*self._free_hand(), *self._walk(obstacle.side), f"pickup {obstacle.thing.name}", "drop"]

    def _empty(self, box: Thing) -> Lines:
        """Take out what fills a box."""
        assert box.content is not None
        return [*self._free_hand(), *self._walk(self.belief.room_of(box)), f"pickup {thing_name(*box.content)}", "drop"]

    def _walk(self, room: str) -> Lines:
        return [] if room == self.belief.here_name else [f"goto {room}"]

    def _find(self, looking_for_key: bool = False) -> Lines:
        """Look where nothing was seen; then behind locked doors, in closed boxes, behind what is in the way; then look again."""
        situation = self.situation
        if situation.unexplored:
            return ["explore"]
        if not looking_for_key:
            for door in situation.locked:
                key = thing_name(KEY, door.thing.color)
                if self._holds(key) or self._known(key) is not None:
                    return self._unlock(door.thing)
        if situation.unopened:
            box = situation.unopened[0]
            room = self.belief.room_of(box)
            return [*self._walk(room), f"open {box.name}"]
        return self._clear(BEYOND) if BEYOND in situation.blocked else ["explore"]

    # ---- facts -----------------------------------------------------------------------------------------------------------------

    def _holds(self, name: str) -> bool:
        held = self.belief.held
        words = name.partition(" at ")[0].split()
        return held is not None and all(word in (*thing_name(*held).split(), "object") for word in words)

    def _known(self, name: str, carried_counts: bool = True) -> Thing | None:
        return self._nearest(self.belief.find(name) + (self.belief.boxed(name) if carried_counts else []))

    def _side(self, thing: Thing) -> str:
        """The room from which to get at the thing: its own, unless the thing itself stops the way into that."""
        room = self.belief.room_of(thing)
        obstacle = self.situation.blocked.get(room)
        return obstacle.side if obstacle is not None and obstacle.thing == thing else room

    def _door_side(self, door: Thing) -> str:
        """The room from which to unlock the door."""
        known = [locked.side for locked in self.situation.locked if locked.thing == door]
        return known[0] if known else self.belief.room_of(door)

    def _nearest(self, found: list[Thing]) -> Thing | None:
        """One in this room before all others, and what can be reached before what cannot."""
        here, blocked = self.belief.here, self.situation.blocked
        return min(found, key=lambda t: (self.belief.room_of(t) in blocked, here not in self.belief.rooms_of(t)), default=None)

    def _knows(self, room: str) -> bool:
        return self.belief.room_names.index(room) in self.belief.known_rooms()

    def _free_hand(self) -> Lines:
        return ["drop"] if self.belief.held else []

    def _ends_with_pickup(self, lines: Lines, name: str) -> bool:
        return bool(lines) and lines[-1] == f"pickup {name}"

    def _interrupted(self, lines: Lines, room: str) -> bool:
        """Whether these lines clear the way instead of going to the room."""
        return lines not in ([], [f"goto {room}"])

    def _room_after(self, lines: Lines) -> str:
        rooms = [line.removeprefix("goto ") for line in lines if line.startswith("goto ")]
        return rooms[-1] if rooms else self.belief.here_name


_SUBGOALS: tuple[tuple[str, Callable[[_Planner, str], Lines]], ...] = (
    ("bring ", _Planner.bring),
    ("put ", _Planner.put),
    ("open ", _Planner.open),
    ("unlock ", _Planner.unlock),
    ("go to ", _Planner.go_to),
    ("pick up ", _Planner.pick_up),
    ("inspect ", _Planner.inspect),
)


def expert_plan(belief: Belief, subgoal: str) -> str:
    """The expert's plan for the open subgoal, one skill per line."""
    return "\n".join(_Planner(belief).plan(subgoal)) if subgoal else "done"


class ExpertBackend:
    """The expert behind the interface of a planner's backend; the loop shows it the belief before each replan."""

    def __init__(self) -> None:
        self._belief: Belief | None = None
        self._subgoal = ""

    def observe(self, belief: Belief, subgoal: str) -> None:
        """Take note of what the next plan is for."""
        self._belief, self._subgoal = belief, subgoal

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """The plan. Raises ``ValueError`` where ``observe`` was never called."""
        if self._belief is None:
            raise ValueError("the expert has no belief to plan from: call observe(belief, subgoal) before generate")
        start = time.perf_counter()
        text = expert_plan(self._belief, self._subgoal)
        for line in text.splitlines() if on_line else ():
            on_line(line)  # type: ignore[misc]
        spent = time.perf_counter() - start
        return Generation(text=text, ttft_s=spent, first_skill_s=spent, total_s=spent)


__all__ = ["ExpertBackend", "Situation", "expert_plan"]
