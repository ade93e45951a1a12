"""The expert's patience: a plan that leads back to the same state is given up after some tries.

The expert plans from the belief alone, so a plan that changes nothing would be made again for ever. Here is its only memory: how
often it has made which plan in which state.
"""

from collections import Counter
from collections.abc import Hashable

from agents.gridworld.belief import Belief
from agents.gridworld.expert import expert_plan

PATIENCE = 3
"""How often the same plan is made in the same state before something else is tried. A slip of the grip deserves another try."""


class PatientExpert:
    """The expert of one episode."""

    def __init__(self) -> None:
        self._made: Counter[Hashable] = Counter()

    def plan(self, belief: Belief, subgoal: str) -> str:
        """Plan for the open subgoal; where the same plan was made in the same state too often, try something else."""
        plan = expert_plan(belief, subgoal)
        tried = (subgoal, plan, _state(belief))
        self._made[tried] += 1
        attempt = self._made[tried] - PATIENCE
        return expert_plan(belief, subgoal, attempt) if attempt > 0 else plan


def _state(belief: Belief) -> Hashable:
    """Return what a plan can change: where the agent is, what it holds, what was seen, and the room and state of each thing."""
    things = Counter((thing.identity, thing.state, belief.room_of(thing)) for thing in belief.things.values())
    return belief.here, belief.held, int((belief.kind > 0).sum()), frozenset(things.items())
