"""When to replan."""

from dataclasses import dataclass
from typing import Literal

ReplanReason = Literal["start", "failure", "surprise", "goal_changed", "subgoal_reached", "plan_end", "interval", "parse_error"]
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
    """Whether an open subgoal was replaced by another one since the last replan."""
    subgoal_reached: bool = False
    """Whether the subgoal that was open at the last replan is reached, and the rest of the plan does not go beyond it."""


@dataclass(frozen=True)
class ReplanPolicy:
    """The rule for when to replan. There is always a plan at the start; each other reason can be turned off.

    Raises ``ValueError`` for an interval below 1.
    """

    on_failure: bool = True
    """Whether to replan after a skill has failed."""
    on_surprise: bool = True
    """Whether to replan after a surprise."""
    on_goal_change: bool = True
    """Whether to replan when an open subgoal was replaced."""
    on_subgoal_reached: bool = True
    """Whether to replan when a plan for one subgoal has reached it before its end."""
    on_plan_end: bool = True
    """Whether to replan at the plan's end. Without it the episode ends there."""
    on_parse_error: bool = True
    """Whether to ask again at once for a plan that could not be read."""
    every: int | None = None
    """Number of skills after which to replan in any case; ``None`` for no fixed interval."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 skill: leave it out for no fixed interval")

    def reason(self, state: LoopState) -> ReplanReason | None:
        """Return why to replan now, or ``None`` to go on with the plan."""
        if not state.started:
            return "start"
        due: tuple[tuple[ReplanReason, bool], ...] = (
            ("goal_changed", self.on_goal_change and state.goal_changed),
            ("failure", self.on_failure and state.last_failed),
            ("surprise", self.on_surprise and state.surprised),
            ("subgoal_reached", self.on_subgoal_reached and state.subgoal_reached),
            ("plan_end", self.on_plan_end and state.skills_left == 0),
            ("interval", self.every is not None and state.skills_since_replan >= self.every),
        )
        return next((reason for reason, holds in due if holds), None)
