"""``done``: the planner says that the task is finished. It ends the episode; the environment alone decides whether it was."""

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.skills.base import OK, SkillRun


def run(belief: Belief) -> SkillRun:
    """One ``done`` action."""
    yield int(Actions.done)
    return OK
