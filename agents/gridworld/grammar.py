"""The lines that a plan in a gridworld can have: the skills with the names that the agent knows."""

from collections.abc import Callable, Collection, Iterator, Sequence

from agents.gridworld.belief import Belief, Thing, matches
from agents.gridworld.goal_text import things_named
from agents.gridworld.navigation import neighbors, search
from agents.gridworld.situation import side_of
from envs.household.containers import BOX_CLOSED
from envs.observation.embodied import Cell
from envs.observation.names import BOX, CLOSED, DOOR, KEY, LOCKED, thing_name
from planner import SKILLS, PlanGrammar, SkillSpec
from planner.grammar import Form, whole_lines

MOST_CHOICES = 64
"""Most lines to choose from. Near things come first."""
Texts = tuple[str, ...]


class _Names:
    """The names that the agent knows: of rooms that it has seen, and of things as it and the open subgoals call them."""

    def __init__(self, belief: Belief, goals: Sequence[str]) -> None:
        self._belief = belief
        self._called = tuple(dict.fromkeys(name for goal in goals for name in things_named(goal) if name not in belief.room_names))
        self.rooms = tuple(belief.room_names[room] for room in belief.known_rooms())
        self.places = ("", *(f" in {room}" for room in self.rooms))

    def of(self, thing: Thing) -> Texts:
        """Return the names of a thing in open subgoals, such as ``object at left``, then its own."""
        return tuple(dict.fromkeys([*(name for name in self._called if matches(thing, name)), thing.name]))

    def all(self, wanted: Callable[[Thing], bool]) -> Texts:
        """Return the names of all known things that are wanted, what is held and what open boxes hold included."""
        belief = self._belief
        boxed = [_inside(thing) for thing in belief.things.values()]
        held = None if belief.held is None else Thing(*belief.held, 0, belief.cell, belief.held_tags)
        things = (thing for thing in (held, *belief.things.values(), *boxed) if thing is not None and wanted(thing))
        return tuple(dict.fromkeys(name for thing in things for name in self.of(thing)))


def plan_grammar(belief: Belief, goals: Sequence[str], numbers: Sequence[int] = ()) -> PlanGrammar:
    """Make the grammar of a plan from what the agent knows.

    A thing may be named with any known room: an earlier line of the plan may carry it there.

    Parameters
    ----------
    belief
        What the agent has seen.
    goals
        Texts of the open subgoals.
    numbers
        Their numbers in the task where plans are numbered; the first is that of a line to choose.
    """
    names = _Names(belief, goals)
    forms = tuple(form for spec in SKILLS.values() for form in _forms(spec, names))
    number = f"{numbers[0]}. " if numbers else ""
    lines = list(dict.fromkeys(_lines_now(belief, names)))[:MOST_CHOICES]
    return PlanGrammar(forms, tuple(numbers), tuple(f"{number}{line}" for line in lines))


def _forms(spec: SkillSpec, names: _Names) -> Iterator[Form]:
    """Yield the forms of one skill: with rooms, and with things and their places."""
    wanted = _TAKES.get(spec.name, lambda thing: True)
    if spec.arity == 0:
        yield whole_lines(spec.name)
    elif spec.arity == 1:
        if spec.name not in _TAKES:
            yield (f"{spec.name} ",), names.rooms
        yield (f"{spec.name} ",), names.all(wanted), names.places
    else:
        for joint in spec.joints:
            target = _is_box if joint == "in" else wanted
            yield (f"{spec.name} ",), names.all(_is_loose), (f" {joint} ",), names.all(target), names.places


def _is_loose(thing: Thing) -> bool:
    return bool(thing.kind != DOOR)


def _is_box(thing: Thing) -> bool:
    return bool(thing.kind == BOX)


_TAKES: dict[str, Callable[[Thing], bool]] = {
    "pickup": _is_loose,
    "open": lambda thing: thing.kind in (DOOR, BOX),
    "unlock": lambda thing: thing.kind == DOOR,
}
"""The things that a skill can be done to; a skill that is not here takes any thing, and rooms."""


def _lines_now(belief: Belief, names: _Names) -> Iterator[str]:
    """Yield the lines that can be carried out now, with what is near first."""
    reach = search(belief)
    yield from ("explore", "done")
    if belief.held is not None:
        yield "drop"
    for room in belief.known_rooms():
        if room != belief.here and any(cell in reach and belief.passable(cell) for cell in belief.cells_of(room)):
            yield f"goto {belief.room_names[room]}"
    for thing in sorted(belief.things.values(), key=lambda thing: _distance(belief, thing)):
        if any(cell in reach for cell in neighbors(thing.cell)):
            yield from _lines_at(belief, thing, names, reach)


def _distance(belief: Belief, thing: Thing) -> tuple[int, Cell]:
    return abs(thing.cell[0] - belief.cell[0]) + abs(thing.cell[1] - belief.cell[1]), thing.cell


def _lines_at(belief: Belief, thing: Thing, names: _Names, reach: Collection[Cell]) -> Iterator[str]:
    """Yield what can be done at a thing that the agent can walk up to."""
    room = side_of(belief, thing, reach) if thing.kind == DOOR else belief.place_of(thing)
    here = [f"{name} in {room}" for name in names.of(thing)]
    for verb in _verbs(belief, thing):
        yield from (f"{verb} {name}" for name in here)
    inside = _inside(thing)
    if inside is not None and belief.held is None:
        yield from (f"pickup {name} in {room}" for name in names.of(inside))
    if belief.held is not None and thing.kind != DOOR:
        held = names.of(Thing(*belief.held, 0, belief.cell, belief.held_tags))
        joints = ["next to", *(["in"] if thing.kind == BOX and belief.unique_names and inside is None else [])]
        yield from (f"put {what} {joint} {name}" for joint in joints for what in held for name in here)


def _verbs(belief: Belief, thing: Thing) -> Iterator[str]:
    """Yield the skills with one argument that fit a thing in its state."""
    furniture = thing.kind == BOX and belief.unique_names
    if belief.held is None and thing.kind != DOOR and not furniture:
        yield "pickup"
    if (thing.kind, thing.state) in ((DOOR, CLOSED), (BOX, BOX_CLOSED)):
        yield "open"
    if thing.kind == DOOR and thing.state == LOCKED and belief.held_name == thing_name(KEY, thing.color):
        yield "unlock"
    yield "goto"


def _inside(thing: Thing) -> Thing | None:
    """Return what an open box holds, as a thing in its place."""
    return None if thing.content is None else Thing(*thing.content, 0, thing.cell)
