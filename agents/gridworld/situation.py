"""The agent's situation, worked out from its belief: what it can reach, what is locked, what blocks the way, what is unopened.

The text of an observation reports it and the expert plans with it. Beyond the text, the expert knows only where things were seen.
"""

from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace

from agents.gridworld.belief import Belief, Thing
from agents.gridworld.goal_text import things_named
from agents.gridworld.navigation import is_frontier, neighbors, search
from agents.gridworld.skills.base import Obstacle, entrance_obstacle, first_obstacle
from envs.household.containers import BOX_CLOSED
from envs.observation.embodied import Cell
from envs.observation.names import BOX, DOOR, KEY, LOCKED, THINGS, thing_name

BEYOND = "beyond"
"""A place that was not seen yet, as a key of ``Situation.blocked``."""
UNKNOWN_WAY = "unknown way"
"""What the text names where no way to a room is known."""


@dataclass(frozen=True)
class Situation:
    """What the agent can reach, and what keeps it from the rest."""

    reach: frozenset[Cell]
    """Cells that the agent can walk to."""
    unexplored: bool
    """Whether it can walk up to a cell that it has not seen."""
    locked: tuple[Obstacle, ...]
    """Locked doors that it can walk up to."""
    blocked: dict[str, Obstacle | None]
    """What it cannot reach (a known room, a thing, or ``BEYOND``) with what blocks the way; ``None`` where no way is known."""
    unopened: tuple[Thing, ...]
    """Closed boxes that it can walk up to. A box that vanishes when it is opened counts only where nothing else is left to try."""


def assess(belief: Belief, subgoal: str = "") -> Situation:
    """Work out the agent's situation from its belief and the open subgoal."""
    reach = search(belief)
    at_hand = [t for t in belief.things.values() if any(near in reach for near in neighbors(t.cell))]
    boxes = tuple(t for t in at_hand if t.kind == BOX and t.state == BOX_CLOSED)
    locked = tuple(Obstacle(t, side_of(belief, t, reach)) for t in at_hand if t.kind == DOOR and t.state == LOCKED)
    blocked = {**_blocked_rooms(belief, set(reach)), **_blocked_things(belief, set(reach))}
    unexplored = any(is_frontier(belief, cell) for cell in reach)
    if not unexplored:
        obstacle = _hidden_behind(belief, set(reach))
        if obstacle is not None:
            blocked[BEYOND] = obstacle
    situation = Situation(frozenset(reach), unexplored, locked, blocked, boxes)
    if belief.unique_names or (boxes and _only_boxes_are_left(belief, situation, subgoal)):
        return situation
    return replace(situation, unopened=())


def sought(belief: Belief, goal: str) -> frozenset[str]:
    """List what must be found before a subgoal can be planned to its end.

    These are the things and the rooms that it names, and the keys of locked doors, as far as the agent does not know where they
    are; and the rest of a room that is to be inspected.
    """
    names = [name for name in things_named(goal) if name not in belief.room_names]
    keys = [thing_name(KEY, door.color) for door in belief.locked_doors()]
    missing = {name for name in (*names, *keys) if not _is_known(belief, name)}
    known = belief.known_rooms()
    rooms = {name for name in things_named(goal) if name in belief.room_names and belief.room_names.index(name) not in known}
    return frozenset(missing | rooms | _rest_of_room(belief, goal))


def _rest_of_room(belief: Belief, goal: str) -> set[str]:
    """Name the unseen rest of the room that a subgoal wants to have inspected; nothing for other subgoals."""
    prefix, _, room = goal.partition(" ")
    known = prefix == "inspect" and belief.room_names.index(room) in belief.known_rooms()
    return {f"all of {room}"} if known and not is_inspected(belief, room) else set()


def is_inspected(belief: Belief, room: str) -> bool:
    """Tell whether some of the room of that name was seen, and nothing next to that was not."""
    cells = belief.cells_of(belief.room_names.index(room))
    return bool(cells) and not any(is_frontier(belief, cell) for cell in cells)


def _is_known(belief: Belief, name: str) -> bool:
    return belief.holds(name) or bool(belief.find(name) or belief.boxed(name))


def nearest_known(belief: Belief, situation: Situation, name: str, boxed: bool = True) -> Thing | None:
    """Return the known thing of this name, ``boxed`` or not: one within reach if possible, and in this room if possible."""
    found = belief.find(name) + (belief.boxed(name) if boxed else [])
    return min(found, key=lambda t: (belief.room_of(t) in situation.blocked, belief.here not in belief.rooms_of(t)), default=None)


def has_key(belief: Belief, door: Thing) -> bool:
    """Tell whether the agent holds the door's key or knows where one is."""
    return _is_known(belief, thing_name(KEY, door.color))


def _only_boxes_are_left(belief: Belief, situation: Situation, subgoal: str) -> bool:
    """Tell whether what the agent lacks for the subgoal can only be in a box: all else is explored, unlocked and cleared."""
    loose = any(obstacle is not None and obstacle.thing.kind != DOOR for obstacle in situation.blocked.values())
    if situation.unexplored or loose or any(has_key(belief, door.thing) for door in situation.locked):
        return False
    return any(not _is_at_hand(belief, situation, name) for name in things_named(subgoal))


def _is_at_hand(belief: Belief, situation: Situation, name: str) -> bool:
    """Tell whether the agent holds or can walk up to a thing of this description, other than a locked door."""
    found = (t for t in belief.find(name) if not (t.kind == DOOR and t.state == LOCKED))
    near = any(cell in situation.reach for t in found for cell in neighbors(t.cell))
    return near or belief.holds(name)


def side_of(belief: Belief, thing: Thing, reach: Collection[Cell]) -> str:
    """Return the name of a room from which the agent can walk up to the thing: its own room if possible."""
    sides = [int(belief.room[near]) for near in neighbors(thing.cell) if near in reach and int(belief.room[near]) >= 0]
    return belief.room_names[belief.here if belief.here in sides or not sides else sides[0]]


def _blocked_rooms(belief: Belief, reach: set[Cell]) -> dict[str, Obstacle | None]:
    blocked: dict[str, Obstacle | None] = {}
    for room in belief.known_rooms():
        if room != belief.here and not belief.cells_of(room) & reach:
            blocked[belief.room_names[room]] = entrance_obstacle(belief, room)
    return blocked


def _blocked_things(belief: Belief, reach: set[Cell]) -> dict[str, Obstacle | None]:
    """Return the things in reachable rooms that have no reachable cell beside them, with what blocks the way."""
    rooms = {int(belief.room[cell]) for cell in reach} | {belief.here}
    around = [t for t in belief.things.values() if rooms & set(belief.rooms_of(t))]
    shut_in = [t for t in around if not any(near in reach for near in neighbors(t.cell))]
    obstacles = {t.name: first_obstacle(belief, {t.cell}) for t in shut_in}
    return {name: obstacle for name, obstacle in obstacles.items() if obstacle is not None}


def _hidden_behind(belief: Belief, reach: set[Cell]) -> Obstacle | None:
    """Return a loose thing that blocks the way to something unseen."""
    loose = THINGS - {DOOR}
    through = search(belief, lambda cell: belief.passable(cell) or int(belief.kind[cell]) in loose)
    frontier = {cell for cell in through if cell not in reach and belief.passable(cell) and is_frontier(belief, cell)}
    return first_obstacle(belief, frontier) if frontier else None


def stopped_by(belief: Belief, obstacle: Obstacle | None) -> str:
    """Name what blocks a way with a room: a door's near side, or the room of the thing."""
    if obstacle is None:
        return UNKNOWN_WAY
    return f"{obstacle.thing.name} in {obstacle.side if obstacle.thing.kind == DOOR else belief.place_of(obstacle.thing)}"


def state_of(belief: Belief) -> Hashable:
    """Return what a plan can change: where the agent is, what it holds, what was seen, and the room and state of each thing."""
    things = Counter((thing.identity, thing.state, belief.room_of(thing)) for thing in belief.things.values())
    return belief.here, belief.held, int((belief.kind > 0).sum()), frozenset(things.items())
