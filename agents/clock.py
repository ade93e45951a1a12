"""The clock: environment steps that pass while the planner thinks."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from planner import Generation

ThinkingSeconds = Callable[[Generation, float], float]
"""Returns the seconds of thinking that one planner call counts for, from its answer and its measured replan seconds."""


@dataclass(frozen=True)
class Clock:
    """A world that does not wait for the planner. It can be pickled if ``seconds`` can.

    RealtimeGym (arXiv 2511.04898) and HAZARD (arXiv 2506.07223) charge thinking with tokens or frames in the same way.

    Attributes
    ----------
    steps_per_second
        Environment steps per second of thinking.
    seconds
        Counts the seconds of a planner call.

    Raises
    ------
    ValueError
        For a rate that is not a positive finite number.
    """

    steps_per_second: float
    seconds: ThinkingSeconds

    def __post_init__(self) -> None:
        if not (math.isfinite(self.steps_per_second) and self.steps_per_second > 0):
            raise ValueError(
                f"steps_per_second={self.steps_per_second} must be a positive finite number: leave the clock out "
                "for a world that waits"
            )

    def count(self, generation: Generation, replan_s: float) -> float:
        """Count the seconds of thinking of one planner call.

        Parameters
        ----------
        generation
            The answer.
        replan_s
            Measured seconds from the observation to the read answer.

        Raises
        ------
        ValueError
            Where ``seconds`` returns a negative number, or one that is not finite. What it raises is raised too.
        """
        counted = self.seconds(generation, replan_s)
        if not (math.isfinite(counted) and counted >= 0):
            raise ValueError(f"the clock's source counted {counted} seconds of thinking: it must return a finite number from 0 on")
        return counted

    def steps(self, seconds: float, carried: float) -> tuple[int, float]:
        """Convert seconds of thinking into whole environment steps.

        Parameters
        ----------
        seconds
            Seconds of thinking, at least 0.
        carried
            Fraction of a step left over from earlier calls, from 0 to below 1.

        Returns
        -------
        int
            Environment steps that pass.
        float
            Fraction of a step to carry over, from 0 to below 1.
        """
        due = self.steps_per_second * seconds + carried
        return math.floor(due), due - math.floor(due)
