"""When to replan."""

from dataclasses import dataclass
from typing import Literal

ReplanReason = Literal["start", "failure", "surprise", "goal_changed", "plan_end", "interval", "parse_error"]


@dataclass(frozen=True)
class LoopState:
    """What a policy may look at, once after each skill (and once before the first)."""

    started: bool
    skills_left: int
    skills_since_replan: int
    last_failed: bool
    surprised: bool
    goal_changed: bool


@dataclass(frozen=True)
class ReplanPolicy:
    """Replan at the plan's end, and after a failure, a surprise or a change of goal; ``every`` adds a fixed interval in skills."""

    on_failure: bool = True
    on_surprise: bool = True
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 skill: leave it out for no fixed interval")

    def reason(self, state: LoopState) -> ReplanReason | None:
        """Why to replan now, or ``None`` to go on with the plan."""
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
