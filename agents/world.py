"""The protocol between the loop and an environment: a ``World`` is one episode of one environment.

There are two families of worlds: gridworlds (``agents.gridworld``) and text worlds (``agents.textworld``). The loop knows neither,
and a world knows no planner backend.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from planner import Horizon

Outcomes = Sequence[tuple[str, str]]
"""Lines of plans carried out since the last observation, as pairs (line, outcome), oldest first."""


class Call(Protocol):
    """One line of a plan, as the world has read it. The loop uses its text only."""

    @property
    def text(self) -> str:
        """The line in its canonical form."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far the task has come."""

    task: str
    """The whole task, as the first entry of the history states it."""
    goal: str
    """The open subgoal; empty where nothing is left to do."""
    done: int
    """Subgoals reached."""
    total: int
    """Subgoals of the task."""
    goals: tuple[str, ...] = ()
    """All open subgoals in the order in which they are due, ``goal`` first; empty where the world does not list them."""
    numbers: tuple[int, ...] = ()
    """Their numbers in the task, from 1; empty where the world does not number them."""

    def replaces(self, before: "Progress", horizon: Horizon) -> bool:
        """Tell whether a subgoal that a plan was made for has been replaced since ``before``, the progress at that time.

        A subgoal that was reached is not replaced. With the horizon ``subgoal``, and where the world does not list the open
        ones, only ``goal`` counts.
        """
        if horizon == "subgoal" or not (self.goals and before.goals):
            return self.goal != before.goal and self.done <= before.done
        left = iter(before.goals)
        return not all(goal in left for goal in self.goals)


@dataclass(frozen=True)
class Tick:
    """The result of one environment step."""

    progress: Progress
    """The state of the task after the step."""
    reward: float = 0.0
    """The step's reward."""
    success: bool = False
    """Whether the task is fulfilled. It ends the episode."""
    terminated: bool = False
    """Whether the world ended the episode, whatever the task's state."""
    truncated: bool = False
    """Whether the step limit ended the episode."""
    disturbances: tuple[str, ...] = ()
    """What happened in this step without the agent's doing."""


@dataclass(frozen=True)
class Outcome:
    """How one line of a plan ended."""

    succeeded: bool
    """Whether the line was carried out."""
    text: str = "ok"
    """What the next observation says: ``ok``, or why it failed."""
    gave_up: bool = False
    """Whether the planner declared the task finished. It ends the episode."""
    goal_changed: bool = False
    """Whether it was interrupted because the task changed."""


OK = Outcome(True)


def failed(reason: str) -> Outcome:
    """Return the outcome of a line that failed for this reason."""
    return Outcome(False, f"failed, {reason}")


@dataclass(frozen=True)
class Place:
    """A name that is written onto a world's picture, in a strip given in fractions (0 to 1) of the picture's width and height."""

    name: str
    """The name, such as a room's."""
    left: float
    """Left edge of the strip."""
    right: float
    """Right edge of the strip; a longer name is shortened."""
    bottom: float
    """Lower edge of the strip."""


@dataclass(frozen=True)
class Scene:
    """What a world adds to its picture, for people who look at it. Nothing of it reaches the planner."""

    places: tuple[Place, ...] = ()
    """Names of parts of the picture, such as rooms."""
    subgoals: tuple[str, ...] = ()
    """Texts of all subgoals, in the order in which they are due; empty where the world does not list them."""
    held: str | None = None
    """Name of what the agent holds; empty for an empty hand, ``None`` where the world has no hands."""
    legend: str = ""
    """How to read the picture, in one line."""


@runtime_checkable
class SceneWorld(Protocol):
    """A world that explains its picture."""

    def scene(self) -> Scene:
        """Return what is to be seen."""
        ...


class World(Protocol):
    """One episode of one environment. It may explain its pictures (``SceneWorld``) and know more (``agents.world_extras``)."""

    system: str
    """The system text of the prompt: the planner's role, the form of its answer, what it can do. Recorded with the episode."""
    max_steps: int
    """Environment steps after which the episode is truncated."""

    @property
    def place(self) -> str | None:
        """Where the agent is, for the records; ``None`` where the world has no places."""
        ...

    def reset(self, seed: int) -> Progress:
        """Begin the episode of this seed."""
        ...

    def describe(self, outcomes: Outcomes) -> str:
        """Write the observation that the planner reads at a replan; its last lines say what to plan for."""
        ...

    def parse(self, answer: str) -> Sequence[Call]:
        """Read a plan. Raises ``planner.PlanParseError`` for an answer that cannot be read."""
        ...

    def run(self, call: Call) -> Generator[Tick, None, Outcome]:
        """Carry out one line of the plan: yield a ``Tick`` per environment step, and return how the line ended.

        The loop closes the generator early where the episode ends first.
        """
        ...

    def idle(self) -> Tick:
        """Let one environment step pass in which the agent does nothing."""
        ...

    def touches(self, rest: Sequence[Call]) -> bool:
        """Tell whether something unexpected that the agent has seen since the last observation matters to the rest of its plan."""
        ...

    def expert(self) -> str | None:
        """Return the expert's plan from what the agent knows; ``None`` where the world has no expert."""
        ...

    def frame(self) -> NDArray[np.uint8] | None:
        """Draw the world, (height, width, 3) uint8; ``None`` where it cannot be drawn."""
        ...

    def close(self) -> None:
        """Free what the environment holds."""
        ...
