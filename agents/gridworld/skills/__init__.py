"""The skills by name. A new skill is one file here, one line below, and its grammar in ``planner.skills``."""

from collections.abc import Callable

from agents.gridworld.belief import Belief
from agents.gridworld.skills import done, drop, explore, goto, open_, pickup, put, unlock
from agents.gridworld.skills.base import SkillRun
from planner import SkillCall

RUNNERS: dict[str, Callable[..., SkillRun]] = {
    "goto": goto.run,
    "pickup": pickup.run,
    "drop": drop.run,
    "put": put.run,
    "open": open_.run,
    "unlock": unlock.run,
    "explore": explore.run,
    "done": done.run,
}
"""What carries out each skill: takes the belief and the skill's arguments."""


def start_skill(belief: Belief, call: SkillCall) -> SkillRun:
    """Begin a skill.

    Parameters
    ----------
    belief
        What the agent has seen; the caller keeps it up to date between two actions.
    call
        The skill with its arguments.

    Returns
    -------
    SkillRun
        A generator that yields environment actions and returns the outcome.

    Raises
    ------
    ValueError
        For an unknown skill.
    """
    if call.name not in RUNNERS:
        raise ValueError(f"skill {call.name!r} is unknown: choose from {', '.join(RUNNERS)}")
    extra = (call.joint,) if call.joint else ()
    return RUNNERS[call.name](belief, *call.args, *extra)
