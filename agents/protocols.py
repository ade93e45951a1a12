"""What the loop is given: its settings, where its records and pictures go, and what a backend may ask of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agents.records import Record
from agents.world import World
from planner import Generation, LineCallback, Prompt, ReplanPolicy, Sampling

Sink = Callable[[Record], None]


class FrameSink(Protocol):
    """Takes one picture, (height, width, 3) uint8, with the current skill as caption."""

    def __call__(self, frame: NDArray[np.uint8], caption: str) -> None:
        """Take the picture."""
        ...


@runtime_checkable
class WorldBackend(Protocol):
    """A backend that plans from the world instead of the prompt: the expert, and whatever asks the expert."""

    def plan(self, world: World, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Plan for the world as it is now. Takes the place of ``PlannerBackend.generate``."""
        ...


@dataclass(frozen=True)
class AgentConfig:
    """How the agent runs."""

    policy: ReplanPolicy = ReplanPolicy()
    """When to replan."""
    sampling: Sampling = Sampling()
    """How the planner decodes."""
    max_replans: int = 60
    """Replans after which the episode ends, a second request after an unreadable plan included."""
