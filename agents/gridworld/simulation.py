"""What a skill would do to the house as the agent believes it to be: the real skills, played on a copy of the belief.

Nothing is looked at on the way, so the copy knows no more than the belief. What a look would show is for the plan after it.

Where exactly a thing will be put down is not known ahead, and the text of an observation does not say it. So a thing that was
put down in imagination is in its room, and in nobody's way: the map stays free on its cell.
"""

from collections.abc import Callable
from dataclasses import replace

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief, Thing
from agents.gridworld.navigation import cell_ahead
from agents.gridworld.skills import start_skill
from envs.household.containers import BOX_CLOSED, BOX_EMPTY, content_code
from envs.observation.embodied import Cell
from envs.observation.names import BALL, BOX, CLOSED, DOOR, EMPTY, KEY, LOCKED, OPEN
from planner import SkillCall

MAX_ACTIONS = 400
"""Actions after which a skill counts as failed."""


def imagined(belief: Belief) -> Belief:
    """Return a copy of the belief that skills may change; the fields that say what is new are not carried over."""
    arrays = {name: getattr(belief, name).copy() for name in ("kind", "color", "state", "room", "seen_at")}
    return replace(
        belief, **arrays, things=dict(belief.things), named=dict(belief.named), fresh={}, gone={}, in_view=[], surprises=set()
    )


def carry_out(belief: Belief, call: SkillCall) -> bool:
    """Play one skill on an imagined belief, which it changes; return whether it succeeds."""
    skill = start_skill(belief, call)
    try:
        for _ in range(MAX_ACTIONS):
            _EFFECTS.get(int(next(skill)), _nothing)(belief)
    except StopIteration as stop:
        return bool(stop.value.succeeded)
    return False


def _nothing(belief: Belief) -> None:
    pass


def _left(belief: Belief) -> None:
    belief.direction = (belief.direction - 1) % 4


def _right(belief: Belief) -> None:
    belief.direction = (belief.direction + 1) % 4


def _forward(belief: Belief) -> None:
    cell = cell_ahead(belief)
    if belief.passable(cell) and not belief.is_door(cell, CLOSED):
        belief.cell = cell
        belief.here = int(belief.room[cell]) if belief.room[cell] >= 0 else belief.here


def _pickup(belief: Belief) -> None:
    thing = belief.things.get(cell_ahead(belief))
    if thing is None or belief.held is not None:
        return
    if thing.content is not None:
        _place(belief, replace(thing, state=BOX_EMPTY))
        belief.held, belief.held_tags = thing.content, ()
    elif thing.kind in (KEY, BALL) or (thing.kind == BOX and not belief.unique_names):
        _clear(belief, thing.cell)
        belief.held, belief.held_tags = thing.identity, thing.tags


def _drop(belief: Belief) -> None:
    cell = cell_ahead(belief)
    box = belief.things.get(cell)
    if belief.held is None:
        return
    if box is not None and box.kind == BOX and box.state == BOX_EMPTY:
        _place(belief, replace(box, state=content_code(*belief.held)))
    elif int(belief.kind[cell]) == EMPTY and cell not in belief.things:
        belief.named.pop(cell, None)
        belief.things[cell] = Thing(*belief.held, 0, cell, belief.held_tags)
    else:
        return
    belief.held, belief.held_tags = None, ()


def _toggle(belief: Belief) -> None:
    thing = belief.things.get(cell_ahead(belief))
    if thing is None:
        return
    if thing.kind == DOOR and (thing.state != LOCKED or belief.held == (KEY, thing.color)):
        _place(belief, replace(thing, state=CLOSED if thing.state == OPEN else OPEN))
    elif thing.kind == BOX and belief.unique_names:
        _place(belief, replace(thing, state=BOX_EMPTY if thing.state == BOX_CLOSED else BOX_CLOSED))
    elif thing.kind == BOX:  # a level's box vanishes
        _clear(belief, thing.cell)


def _place(belief: Belief, thing: Thing) -> None:
    """Write a thing into the map; one that lay elsewhere is named by its new room."""
    if belief.things.get(thing.cell, thing).identity != thing.identity or thing.cell not in belief.things:
        belief.named.pop(thing.cell, None)
    belief.things[thing.cell] = thing
    belief.kind[thing.cell], belief.color[thing.cell], belief.state[thing.cell] = thing.kind, thing.color, thing.state


def _clear(belief: Belief, cell: Cell) -> None:
    del belief.things[cell]
    belief.named.pop(cell, None)
    belief.kind[cell], belief.state[cell] = EMPTY, 0


_EFFECTS: dict[int, Callable[[Belief], None]] = {
    int(Actions.left): _left,
    int(Actions.right): _right,
    int(Actions.forward): _forward,
    int(Actions.pickup): _pickup,
    int(Actions.drop): _drop,
    int(Actions.toggle): _toggle,
}
"""What each of minigrid's actions does; ``done`` does nothing."""
