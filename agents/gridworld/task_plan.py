"""The expert's plan for the whole task: it plans subgoal after subgoal, and imagines that each plan has been carried out.

The first line for a subgoal begins with the subgoal's number in the task: ``3. pickup red ball in attic``. So a planner that writes
line after line does not lose its place among ten subgoals.

The plan goes as far as the belief supports it. It ends where something must be looked for: with a search, which is ``explore`` some
times, or at a closed box.
"""

from collections.abc import Callable, Collection, Sequence

from agents.gridworld.belief import Belief, matches
from agents.gridworld.expert import expert_plan, other_plans
from agents.gridworld.goal_text import split_goal
from agents.gridworld.navigation import cell_ahead, is_frontier, neighbors, search
from agents.gridworld.simulation import carry_out, imagined
from agents.gridworld.situation import is_inspected
from envs.household.containers import BOX_CLOSED
from envs.observation.names import BOX, DOOR, LOCKED, OPEN
from planner import Horizon, SkillCall
from planner.plan import parse_skill

ROUNDS = 4
"""How often the expert plans for one subgoal: a way may have to be cleared first."""
SEARCH = 4
"""Rooms that a plan looks over in a search. What is found on the way makes the rest of the search pointless: a surprise."""
MOST_LINES = 40
"""Lines after which a plan ends."""


def plan_avoiding(
    belief: Belief, goals: Sequence[str], numbers: Sequence[int], horizon: Horizon, avoid: Collection[str] = ()
) -> str:
    """Plan for the open subgoal or for all of them, with a beginning that is not forbidden.

    Parameters
    ----------
    belief
        What the agent has seen.
    goals
        Texts of the open subgoals in the order in which they are due.
    numbers
        Their numbers in the task.
    horizon
        How far to plan.
    avoid
        Beginnings of plans (whole lines) that have led nowhere. Where the plan has one of them, something else is tried for the
        first subgoal: clear a way, unlock, open, look elsewhere, carry off.
    """
    goal = goals[0] if goals else ""
    plan = task_plan(belief, goals, numbers) if horizon == "task" else expert_plan(belief, goal)
    if not is_forbidden(plan, avoid):
        return plan
    others = other_plans(belief, goal)
    if horizon == "task" and numbers:
        others = [f"{numbers[0]}. {other}" for other in others]
    free = [other for other in others if not is_forbidden(other, avoid)]
    return free[0] if free else others[len(avoid) % len(others)] if others else plan


def is_forbidden(plan: str, avoid: Collection[str]) -> bool:
    """Tell whether a plan begins with one of these texts, which are whole lines."""
    return any(f"{plan}\n".startswith(f"{beginning}\n") for beginning in avoid)


def task_plan(belief: Belief, goals: Sequence[str], numbers: Sequence[int]) -> str:
    """Plan for all open subgoals, as far as the belief supports it.

    Parameters
    ----------
    belief
        What the agent has seen.
    goals
        Texts of the open subgoals in the order in which they are due; empty where none is open.
    numbers
        Their numbers in the task.

    Returns
    -------
    str
        One skill per line, the first for each subgoal with its number; ``done`` where no subgoal is open.

    Raises
    ------
    ValueError
        For a subgoal of an unknown form.
    """
    if not goals:
        return "done"
    ahead, lines = imagined(belief), list[str]()
    for number, goal in zip(numbers, goals, strict=True):
        comes_true = goal != goals[0] and belief.unique_names and reached(ahead, goal)  # a level wants an act for each of its goals
        begin = len(lines)
        goes_on = comes_true or _plan_goal(ahead, goal, lines)
        lines[begin : begin + 1] = [f"{number}. {line}" for line in lines[begin : begin + 1]]
        if not goes_on or len(lines) >= MOST_LINES:
            break
    return "\n".join(lines[:MOST_LINES] or [f"{numbers[0]}. explore"])


def _plan_goal(ahead: Belief, goal: str, lines: list[str]) -> bool:
    """Add the lines for one subgoal; return whether it is reached if they are carried out."""
    for _ in range(ROUNDS):
        for line in expert_plan(ahead, goal).splitlines():
            call = parse_skill(line)
            if _shows_something(ahead, call):
                lines.extend([line] * _looks(ahead, call))
                return False
            if not carry_out(ahead, call):
                return False
            lines.append(line)
        if reached(ahead, goal):
            return True
    return False


def _looks(belief: Belief, call: SkillCall) -> int:
    """Return how often to look: once where the house is not all known yet, from sight or an inventory, else room after room."""
    known = call.name == "explore" and not any(is_frontier(belief, cell, since=0) for cell in search(belief))
    return SEARCH if known else 1


def _shows_something(belief: Belief, call: SkillCall) -> bool:
    """Tell whether the skill is there to see something that the agent does not know."""
    if call.name != "open":
        return call.name == "explore"
    name, _, room = call.args[0].partition(" in ")
    return any(box.kind == BOX and box.state == BOX_CLOSED for box in belief.find(name, belief.room_names.index(room)))


def reached(belief: Belief, goal: str) -> bool:
    """Tell whether a subgoal is reached in the house as it is believed to be. Raises ``ValueError`` for one of an unknown form."""
    verb, rest = split_goal(goal)
    return _REACHED[verb](belief, rest)


def _brought(belief: Belief, rest: str) -> bool:
    name, _, room = rest.partition(" to ")
    return bool(belief.find(name, belief.room_names.index(room)))


def _put(belief: Belief, rest: str) -> bool:
    name, joint, target = rest.partition(" next to ")
    if joint:
        beside = {cell for thing in belief.find(target) for cell in neighbors(thing.cell)}
        return any(thing.cell in beside for thing in belief.find(name))
    name, _, target = rest.partition(" in ")
    return any(matches(box, target) for box in belief.boxed(name))


def _opened(belief: Belief, name: str) -> bool:
    return any(thing.kind == DOOR and thing.state == OPEN for thing in belief.find(name))


def _unlocked(belief: Belief, name: str) -> bool:
    doors = [thing for thing in belief.find(name) if thing.kind == DOOR]
    return bool(doors) and all(door.state != LOCKED for door in doors)


def _gone_to(belief: Belief, name: str) -> bool:
    return any(thing.cell == cell_ahead(belief) for thing in belief.find(name))


_REACHED: dict[str, Callable[[Belief, str], bool]] = {
    "bring": _brought,
    "put": _put,
    "open": _opened,
    "unlock": _unlocked,
    "go to": _gone_to,
    "pick up": Belief.holds,
    "inspect": is_inspected,
}
"""Whether a subgoal is reached, by its verb."""
