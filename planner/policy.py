"""When to replan."""

from dataclasses import dataclass
from typing import Literal

ReplanReason = Literal["start", "failure", "surprise", "goal_changed", "plan_end", "interval", "parse_error"]
"""Why the agent replans. The loop itself gives ``parse_error``, when it asks again for a plan that could not be read."""


@dataclass(frozen=True)
class LoopState:
    """What a policy sees of the loop, once before the first skill and once after each."""

    started: bool
    """Whether there has been a plan in this episode."""
    skills_left: int
    """Number of skills of the plan that are not carried out yet."""
    skills_since_replan: int
    """Number of skills carried out since the last replan."""
    last_failed: bool
    """Whether the last skill failed."""
    surprised: bool
    """Whether the agent saw something that contradicts what the rest of the plan relies on."""
    goal_changed: bool
    """Whether the open subgoal was replaced since the last replan."""


@dataclass(frozen=True)
class ReplanPolicy:
    """The rule for when to replan: always at the start, at the plan's end and when the goal changed, and as its fields say.

    Raises ``ValueError`` for an interval below 1.
    """

    on_failure: bool = True
    """Whether to replan after a skill has failed."""
    on_surprise: bool = True
    """Whether to replan after a surprise."""
    every: int | None = None
    """Number of skills after which to replan in any case; ``None`` for no fixed interval."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 skill: leave it out for no fixed interval")

    def reason(self, state: LoopState) -> ReplanReason | None:
        """Return why to replan now, or ``None`` to go on with the plan."""
        if not state.started:
            return "start"
        if state.goal_changed:
            return "goal_changed"
        if state.last_failed and self.on_failure:
            return "failure"
        if state.surprised and self.on_surprise:
            return "surprise"
        if state.skills_left == 0:
            return "plan_end"
        if self.every is not None and state.skills_since_replan >= self.every:
            return "interval"
        return None
