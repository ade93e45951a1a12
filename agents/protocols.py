"""What the loop is given: its settings, where its records and pictures go, and what a backend may ask of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agents.gridworld.belief import Belief
from agents.records import Record
from planner import ReplanPolicy, Sampling

Sink = Callable[[Record], None]
End = Literal["success", "step_limit", "gave_up", "terminated", "replan_limit", "context_limit"]


class FrameSink(Protocol):
    """Takes one picture, (height, width, 3) uint8, with the current skill as caption."""

    def __call__(self, frame: NDArray[np.uint8], caption: str) -> None: ...


@runtime_checkable
class BeliefAware(Protocol):
    """A backend that plans from the belief instead of the text (the expert)."""

    def observe(self, belief: Belief, subgoal: str) -> None:
        """Called before each replan."""


@dataclass(frozen=True)
class AgentConfig:
    """How the agent runs: when it replans, how its planner decodes, after how many replans it stops."""

    policy: ReplanPolicy = ReplanPolicy()
    sampling: Sampling = Sampling()
    max_replans: int = 60
