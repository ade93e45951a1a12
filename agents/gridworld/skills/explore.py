"""``explore``: look over one room.

That is the rest of this one, else the nearest room with something unseen, else the one last seen longest ago.
"""

from agents.gridworld.belief import Belief, Cell
from agents.gridworld.navigation import is_frontier, neighbors, search, turn_to, walk_to
from agents.gridworld.skills.base import SkillRun
from agents.world import OK, failed
from envs.observation.names import UNSEEN, WALL

MAX_LOOKS = 60


def run(belief: Belief) -> SkillRun:
    """Ends when the whole room has been seen. Fails only where there is nowhere to go."""
    frontier = next_frontier(belief, belief.here)
    if frontier is None:
        return (yield from _look_again(belief))
    room = int(belief.room[frontier])
    for _ in range(MAX_LOOKS):
        yield from _look_at(belief, frontier, 0)
        following = next_frontier(belief, room if room >= 0 else belief.here)
        if following is None or (room >= 0 and int(belief.room[following]) != room):
            return OK
        frontier, room = following, int(belief.room[following])
    return failed("could not see all of the room")


def next_frontier(belief: Belief, room: int) -> Cell | None:
    """The nearest reachable cell next to something unseen; cells of ``room`` come before all others."""
    cells = [cell for cell in search(belief) if is_frontier(belief, cell)]
    return next((cell for cell in cells if int(belief.room[cell]) == room), cells[0] if cells else None)


def _look_again(belief: Belief) -> SkillRun:
    """Go to the reachable room that was last seen longest ago and see all of it afresh."""
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
    """Walk towards the frontier cell until what lies behind it is seen, and turn to it if need be."""
    yield from walk_to(belief, {cell}) if belief.is_door(cell) else _approach(belief, cell, since)
    for near in neighbors(cell):
        if belief.cell == cell and belief.kind[near] != WALL and (belief.kind[near] == UNSEEN or belief.seen_at[near] < since):
            yield from turn_to(belief, near)
    if belief.cell == cell and int(belief.room[cell]) < 0:
        yield from _walk_through(belief)
    return OK


def _approach(belief: Belief, cell: Cell, since: int) -> SkillRun:
    """One walk to the cell, given up as soon as it is no frontier any more."""
    walk = walk_to(belief, {cell})
    for action in walk:
        yield action
        if not is_frontier(belief, cell, since):
            break
    return OK


def _walk_through(belief: Belief) -> SkillRun:
    """From a doorway step on into the room behind it."""
    ahead = neighbors(belief.cell)[belief.direction]
    if belief.passable(ahead):
        yield from walk_to(belief, {ahead})
    return OK
