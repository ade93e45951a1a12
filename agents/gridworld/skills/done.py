"""``done``: say that the task is finished. It ends the episode; the environment decides whether it was a success."""

from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.skills.base import SkillRun
from agents.world import OK


def run(belief: Belief) -> SkillRun:
    """Yield one ``done`` action."""
    yield int(Actions.done)
    return OK
