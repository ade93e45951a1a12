"""``explore``: look over one room.

It is the agent's room while some of it was never in view, else the nearest room with such a place, else the room not seen for
longest. What an inventory tells of was not in view.
"""

from agents.gridworld.belief import Belief
from agents.gridworld.navigation import FIRST_VIEW, cell_ahead, is_frontier, neighbors, search, turn_to, walk_to
from agents.gridworld.skills.base import SkillRun
from agents.world import OK, failed
from envs.observation.embodied import Cell
from envs.observation.names import UNSEEN, WALL

MAX_LOOKS = 60
"""How many cells to look at before the skill gives up."""


def run(belief: Belief) -> SkillRun:
    """Look over one room. Fails where some of it still is unseen after ``MAX_LOOKS`` looks."""
    frontier = next_frontier(belief, belief.here)
    if frontier is None:
        return (yield from _look_again(belief))
    room = int(belief.room[frontier])
    for _ in range(MAX_LOOKS):
        yield from _look_at(belief, frontier, FIRST_VIEW)
        following = next_frontier(belief, room if room >= 0 else belief.here)
        if following is None or (room >= 0 and int(belief.room[following]) != room):
            return OK
        frontier, room = following, int(belief.room[following])
    return failed("could not see all of the room")


def next_frontier(belief: Belief, room: int) -> Cell | None:
    """Return the nearest reachable cell next to something unseen, in ``room`` (an index) if possible; ``None`` without any."""
    cells = [cell for cell in search(belief) if is_frontier(belief, cell)]
    return next((cell for cell in cells if int(belief.room[cell]) == room), cells[0] if cells else None)


def _look_again(belief: Belief) -> SkillRun:
    """Walk to the reachable room that was not seen for longest, and look over it again."""
    reach = search(belief)
    last = {r: _last_look(belief, r) for r in {int(belief.room[cell]) for cell in reach} - {-1, belief.here}}
    room = min(last, key=lambda r: last[r]) if last else belief.here
    since = belief.step
    yield from walk_to(belief, {cell for cell in reach if int(belief.room[cell]) == room})
    for _ in range(MAX_LOOKS):
        stale = [c for c in search(belief) if int(belief.room[c]) == room and is_frontier(belief, c, since)]
        if not stale:
            return OK
        yield from _look_at(belief, stale[0], since)
    return failed("could not see all of the room")


def _last_look(belief: Belief, room: int) -> int:
    cells = belief.room == room
    return int(belief.seen_at[cells].min())


def _look_at(belief: Belief, cell: Cell, since: int) -> SkillRun:
    """Walk towards a cell until the unseen cells beside it are seen; on arrival turn to those that are not."""
    yield from walk_to(belief, {cell}) if belief.is_door(cell) else _approach(belief, cell, since)
    for near in neighbors(cell):
        if belief.cell == cell and belief.kind[near] != WALL and (belief.kind[near] == UNSEEN or belief.seen_at[near] < since):
            yield from turn_to(belief, near)
    if belief.cell == cell and int(belief.room[cell]) < 0:
        yield from _walk_through(belief)
    return OK


def _approach(belief: Belief, cell: Cell, since: int) -> SkillRun:
    """Walk to the cell, and stop as soon as everything beside it is seen."""
    walk = walk_to(belief, {cell})
    for action in walk:
        yield action
        if not is_frontier(belief, cell, since):
            break
    return OK


def _walk_through(belief: Belief) -> SkillRun:
    """Step out of a doorway into the room ahead."""
    ahead = cell_ahead(belief)
    if belief.passable(ahead):
        yield from walk_to(belief, {ahead})
    return OK
