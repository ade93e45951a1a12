"""Settings and callbacks of the loop, and the protocol of backends that plan from the world."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agents.records import Record
from agents.world import World
from planner import Generation, LineCallback, Prompt, ReplanPolicy, Sampling

Sink = Callable[[Record], None]
"""Takes one record."""


class FrameSink(Protocol):
    """A callback for pictures, uint8 arrays of shape (height, width, 3), with the current line of the plan as caption."""

    def __call__(self, frame: NDArray[np.uint8], caption: str) -> None:
        """Take the picture."""
        ...


@runtime_checkable
class WorldBackend(Protocol):
    """A backend that plans from the world instead of the prompt, such as the expert."""

    def plan(self, world: World, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Plan for the world as it is now. The loop calls this instead of ``PlannerBackend.generate``."""
        ...


@dataclass(frozen=True)
class AgentConfig:
    """Settings of the agent."""

    policy: ReplanPolicy = ReplanPolicy()
    """When to replan."""
    sampling: Sampling = Sampling()
    """How the planner decodes."""
    max_replans: int = 60
    """Planner calls after which the episode ends; asking again for a plan that could not be read counts."""
