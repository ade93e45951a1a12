"""``done``: the planner says that the task is finished. It ends the episode; the environment alone decides whether it was."""

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.skills.base import SkillRun
from agents.world import OK


def run(belief: Belief) -> SkillRun:
    """One ``done`` action."""
    yield int(Actions.done)
    return OK
