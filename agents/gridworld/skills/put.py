"""``put X next to Y`` and ``put X in Y``: place the held thing beside another one, or into a box."""

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief, Thing, matches
from agents.gridworld.navigation import neighbors, walk_beside
from agents.gridworld.skills.base import SkillRun, no_way
from agents.gridworld.skills.drop import place_at
from agents.gridworld.skills.grounding import locate, split_place
from agents.gridworld.skills.spots import is_safe_spot
from agents.world import OK, Outcome, failed
from envs.household.containers import BOX_CLOSED
from envs.observation.embodied import Cell
from envs.observation.names import BOX


def run(belief: Belief, name: str, target: str, joint: str) -> SkillRun:
    """Put the held thing next to the target or into it.

    Fails where the agent does not hold the thing, where the target is not there, full or out of reach, and where the grip slips.

    Parameters
    ----------
    belief
        What the agent has seen.
    name
        The held thing.
    target
        The other thing, or the box.
    joint
        ``next to`` or ``in``.
    """
    description, _ = split_place(belief, name)
    if belief.held is None or not matches(Thing(*belief.held, 0, belief.cell, ("left", "right", "front", "behind")), description):
        return failed(f"not holding {description}")
    thing = yield from locate(belief, target)
    if isinstance(thing, Outcome):
        return thing
    return (yield from (_into(belief, thing) if joint == "in" else _beside(belief, thing)))


def _beside(belief: Belief, thing: Thing) -> SkillRun:
    free = [spot for spot in neighbors(thing.cell) if _is_free(belief, spot)]
    safe = [spot for spot in free if is_safe_spot(belief, spot)]
    spots = {stand: spot for spot in safe or free for stand in _stands(belief, spot, thing)}
    if not spots:
        return failed(f"no free place next to {thing.name}")
    return (yield from place_at(belief, spots))


def _stands(belief: Belief, spot: Cell, thing: Thing) -> list[Cell]:
    return [cell for cell in neighbors(spot) if cell != thing.cell and (belief.passable(cell) or cell == belief.cell)]


def _is_free(belief: Belief, cell: Cell) -> bool:
    return (belief.passable(cell) or cell == belief.cell) and cell not in belief.things


def _into(belief: Belief, box: Thing) -> SkillRun:
    if box.kind != BOX:
        return failed(f"{box.name} is no box")
    if not belief.unique_names:  # BabyAI's boxes vanish when they are opened
        return failed(f"{box.name} cannot be filled")
    reached = yield from walk_beside(belief, box.cell)
    if not reached:
        return no_way(belief, {box.cell})
    if int(belief.state[box.cell]) == BOX_CLOSED:
        yield int(Actions.toggle)
    if int(belief.state[box.cell]) == BOX_CLOSED:
        return failed("the grip slipped")
    if belief.things[box.cell].content is not None:
        return failed(f"{box.name} is full")
    yield int(Actions.drop)
    return OK if belief.held is None else failed("the grip slipped")
