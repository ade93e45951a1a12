"""Settings and callbacks of the loop, and the protocol of backends that plan from the world."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agents.clock import Clock
from agents.records import Record
from agents.world import Progress, Scene, World
from planner import Generation, LineCallback, Prompt, ReplanPolicy, Sampling

Sink = Callable[[Record], None]
"""Takes one record."""


@dataclass(frozen=True)
class Moment:
    """The state of an episode at the moment of a picture."""

    env_step: int
    """Environment steps so far."""
    max_steps: int
    """Environment steps allowed."""
    progress: Progress
    """The state of the task."""
    line: str
    """The line of the plan that is carried out; empty right after a replan."""
    rest: tuple[str, ...]
    """The lines of the plan after it."""
    disturbances: tuple[str, ...]
    """What happened in this step without the agent's doing."""
    scene: Scene
    """What the world adds to its picture."""


class FrameSink(Protocol):
    """A callback for pictures, uint8 arrays of shape (height, width, 3), with the current line of the plan as caption."""

    def __call__(self, frame: NDArray[np.uint8], caption: str) -> None:
        """Take the picture."""
        ...


@runtime_checkable
class MomentSink(Protocol):
    """A ``FrameSink`` that wants to know more than the caption."""

    def see(self, moment: Moment) -> None:
        """Take the state of the episode: before each picture, and once more after each replan."""
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
    clock: Clock | None = field(default=None, repr=False)
    """Lets environment steps pass while the planner thinks; ``None`` for a world that waits. Run directories describe it apart."""
    observe: bool = field(default=True, repr=False)
    """Whether a backend that can takes in the history while the agent acts. Plans do not depend on it."""
    start_early: bool = field(default=False, repr=False)
    """Whether to carry out the first line of a plan while the planner writes the rest. Run directories describe it apart."""

    def __post_init__(self) -> None:
        if self.start_early and self.clock is not None:
            raise ValueError(
                "start_early=True with a clock: a clock counts the seconds of whole plans, a first line has no price of its own; "
                "leave out one of the two"
            )
