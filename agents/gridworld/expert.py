"""The expert: a rule-based planner for the open subgoal.

At each replan it plans anew from the agent's belief. Its plan depends on what the text of the observation says and on where
things were last seen, so that a language model can learn it from the text. It labels the training data and is the upper row of
every table.
"""

from collections.abc import Callable

from agents.gridworld.belief import Belief, Thing, matches
from agents.gridworld.goal_text import split_goal, things_named
from agents.gridworld.navigation import neighbors
from agents.gridworld.situation import BEYOND, assess, has_key, nearest_known
from agents.gridworld.skills.spots import room_to_drop, with_taken
from envs.observation.names import BOX, DOOR, KEY, LOCKED, thing_name

Lines = list[str]
"""A plan, or a part of one: one skill per line."""


class _Planner:
    """The planning of one plan, from the belief and the situation."""

    def __init__(self, belief: Belief, subgoal: str) -> None:
        self.belief, self.situation = belief, assess(belief, subgoal)
        self._subgoal = subgoal
        self._unlocking: set[str] = set()

    # ---- subgoals --------------------------------------------------------------------------------------------------------------

    def plan(self) -> Lines:
        """Plan for the subgoal. Raises ``ValueError`` for a subgoal of an unknown form."""
        verb, rest = split_goal(self._subgoal)
        return _SUBGOALS[verb](self, rest)[:6] or ["explore"]

    def bring(self, rest: str) -> Lines:
        name, _, room = rest.partition(" to ")
        before = [] if self._holds(name) else self._fetch(name)
        if before and not self._picks_up(before, name):
            return before
        there = before[-1].endswith(f" in {room}") if before else room == self.belief.here_name
        return self._then(before, room, [*([] if there else [f"goto {room}"]), "drop"])

    def put(self, rest: str) -> Lines:
        joint = " next to " if " next to " in rest else " in "
        name, _, target = rest.partition(joint)
        thing = self._known(target, boxed=False)
        if joint == " in " and thing is not None and thing.content is not None:
            return self._empty(thing)
        before = [] if self._holds(name) else self._fetch(name)
        if before and not self._picks_up(before, name):
            return before
        return self._at(target, before, f"put {name}{joint}{target}")

    def open(self, name: str) -> Lines:
        door = self._known(name, boxed=False)
        return self._unlock(door) if door is not None and door.state == LOCKED else self._at(name, [], f"open {name}")

    def unlock(self, name: str) -> Lines:
        door = self._known(name, boxed=False)
        return self._find() if door is None else self._unlock(door)

    def go_to(self, name: str) -> Lines:
        return self._at(name, [], f"goto {name}")

    def pick_up(self, name: str) -> Lines:
        return self._fetch(name)

    def inspect(self, room: str) -> Lines:
        return self._then([], room, ["explore"] if room == self.belief.here_name else [f"goto {room}", "explore"])

    # ---- parts -----------------------------------------------------------------------------------------------------------------

    def _fetch(self, name: str) -> Lines:
        """Plan to get the thing into the hand."""
        thing = self._known(name)
        if thing is None:
            return self._find()
        way = self._way_to(thing)
        return way or [*self._free_hand(), f"pickup {name} in {self.belief.place_of(thing)}"]

    def _at(self, name: str, before: Lines, last: str) -> Lines:
        """Plan ``before``, then ``last``, a skill at the thing; or only a first step where the thing is unknown or out of reach."""
        thing = self._known(name, boxed=False)
        if thing is None:
            return before or self._find()
        return self._way_to(thing) or [*before, f"{last} in {self.belief.place_of(thing)}"]

    def _then(self, before: Lines, room: str, last: Lines) -> Lines:
        """Plan ``before``, then ``last``, a visit to the room; or only a first step where the room is unknown or out of reach."""
        if self.belief.room_names.index(room) not in self.belief.known_rooms():
            return before or self._find()
        return self._clear(room) if room in self.situation.blocked else [*before, *last]

    def _way_to(self, thing: Thing) -> Lines:
        """Plan to clear the way to a thing; empty where it is clear."""
        blocked, room = self.situation.blocked, self.belief.room_of(thing)
        if thing.name in blocked:
            return self._clear(thing.name)
        obstacle = blocked.get(room)
        itself = obstacle is not None and obstacle.thing == thing
        return self._clear(room) if room in blocked and not itself else []

    def _unlock(self, door: Thing) -> Lines:
        """Plan to fetch the key and unlock the door. Where the key seems to be behind its own door, try other doors, or look."""
        if door.name in self._unlocking:
            return self._unlock_another() or ["explore"]
        self._unlocking.add(door.name)
        way = [] if any(locked.thing == door for locked in self.situation.locked) else self._way_to(door)
        if way:
            return way
        key, last = thing_name(KEY, door.color), f"unlock {door.name} in {self._door_side(door)}"
        if self._holds(key):
            return [last]
        if self._known(key) is None:
            return self._find()
        fetch = self._fetch(key)
        return [*fetch, last] if self._picks_up(fetch, key) else fetch

    def _unlock_another(self) -> Lines:
        """Plan to unlock a door that this plan has not tried to unlock yet, and whose key is known; empty where there is none."""
        for door in self.situation.locked:
            if door.thing.name not in self._unlocking and has_key(self.belief, door.thing):
                lines = self._unlock(door.thing)
                if lines != ["explore"]:
                    return lines
        return []

    def _clear(self, goal: str) -> Lines:
        """Plan to unlock the door or move the thing that blocks the way to ``goal``; look around where no way is known."""
        obstacle = self.situation.blocked[goal]
        if obstacle is None:
            return self._find()
        if obstacle.thing.kind == DOOR:
            return self._unlock(obstacle.thing)
        return self._put_aside(obstacle.thing)

    def _put_aside(self, thing: Thing) -> Lines:
        """Plan to take a thing away and to drop it where it blocks nothing."""
        return [*self._free_hand(), self._pickup(thing), *self._drop(with_taken(self.belief, thing))]

    def _pickup(self, thing: Thing) -> str:
        return f"pickup {thing.name} in {self.belief.place_of(thing)}"

    def _empty(self, box: Thing) -> Lines:
        """Plan to take out what fills a box."""
        assert box.content is not None
        return [*self._free_hand(), f"pickup {thing_name(*box.content)} in {self.belief.place_of(box)}", "drop"]

    def _find(self) -> Lines:
        """Plan to search: in unseen places, behind locked doors, in closed boxes, behind obstacles, then everywhere again."""
        situation = self.situation
        if situation.unexplored:
            return ["explore"]
        another = self._unlock_another()
        if another:
            return another
        if situation.unopened:
            named = things_named(self._subgoal)  # a level's box vanishes when it is opened: one that the goal needs comes last
            box = min(situation.unopened, key=lambda t: not self.belief.unique_names and any(matches(t, name) for name in named))
            return [f"open {box.name} in {self.belief.place_of(box)}"]
        loose = [goal for goal, obstacle in situation.blocked.items() if obstacle is not None and obstacle.thing.kind != DOOR]
        return self._clear(BEYOND if BEYOND in loose else loose[0]) if loose else ["explore"]

    def alternatives(self) -> list[Lines]:
        """List what else to try where the plan leads nowhere: clear a way, unlock, open, look around elsewhere, carry off."""
        belief, situation = self.belief, self.situation
        blocking = [obstacle.thing for obstacle in situation.blocked.values() if obstacle is not None]
        loose = [thing for thing in self._loose_things() if any(near in situation.reach for near in neighbors(thing.cell))]
        rooms = sorted({int(belief.room[cell]) for cell in situation.reach} - {-1, belief.here})
        gotos = [f"goto {belief.room_names[room]}" for room in rooms]
        return [
            *(self._put_aside(thing) for thing in loose if thing in blocking),
            *(self._unlock(door.thing) for door in situation.locked if has_key(belief, door.thing)),
            *([f"open {box.name} in {belief.place_of(box)}"] for box in situation.unopened),
            *([goto, "explore"] for goto in gotos),
            *([*self._free_hand(), self._pickup(thing), goto, "drop"] for thing in loose for goto in gotos),
            ["explore"],
        ]

    def _loose_things(self) -> list[Thing]:
        """List the things that can be carried; boxes can where they are no furniture."""
        fixed = {DOOR, BOX} if self.belief.unique_names else {DOOR}
        return [thing for thing in self.belief.things.values() if thing.kind not in fixed]

    # ---- facts -----------------------------------------------------------------------------------------------------------------

    def _holds(self, name: str) -> bool:
        held = self.belief.held
        words = name.partition(" at ")[0].split()
        return held is not None and all(word in (*thing_name(*held).split(), "object") for word in words)

    def _known(self, name: str, boxed: bool = True) -> Thing | None:
        return nearest_known(self.belief, self.situation, name, boxed)

    def _door_side(self, door: Thing) -> str:
        """Return the name of the room from which to unlock the door."""
        known = [locked.side for locked in self.situation.locked if locked.thing == door]
        return known[0] if known else self.belief.place_of(door)

    def _free_hand(self) -> Lines:
        return self._drop(self.belief) if self.belief.held else []

    def _drop(self, belief: Belief) -> Lines:
        """Plan to drop the held thing where it is in nobody's way: in this room if possible."""
        room = room_to_drop(belief)
        return ["drop"] if room == belief.here else [f"goto {belief.room_names[room]}", "drop"]

    def _picks_up(self, lines: Lines, name: str) -> bool:
        return lines[-1].startswith(f"pickup {name} in ")


_SUBGOALS: dict[str, Callable[[_Planner, str], Lines]] = {
    "bring": _Planner.bring,
    "put": _Planner.put,
    "open": _Planner.open,
    "unlock": _Planner.unlock,
    "go to": _Planner.go_to,
    "pick up": _Planner.pick_up,
    "inspect": _Planner.inspect,
}
"""How to plan for a subgoal, by its verb."""


def expert_plan(belief: Belief, subgoal: str) -> str:
    """Plan for the open subgoal.

    Parameters
    ----------
    belief
        What the agent has seen.
    subgoal
        Text of the open subgoal; empty where none is open.

    Returns
    -------
    str
        One skill per line; ``done`` where no subgoal is open.

    Raises
    ------
    ValueError
        For a subgoal of an unknown form.
    """
    return "\n".join(_Planner(belief, subgoal).plan()) if subgoal else "done"


def other_plans(belief: Belief, subgoal: str) -> list[str]:
    """List what else to try for the open subgoal where the expert's plan leads nowhere; empty where no subgoal is open."""
    return ["\n".join(lines) for lines in _Planner(belief, subgoal).alternatives()] if subgoal else []
