"""The plan that the agent carries out: what is left of it, and what became of its lines."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from agents.early import Done
from agents.world import Call, Outcome
from planner.lines import subgoal_number

Step = tuple[Call, str]
"""One line of a plan: as it was read, and as the planner wrote it."""


@dataclass
class CurrentPlan:
    """The current plan. Its length is the number of lines that are not carried out yet."""

    steps: list[Step] = field(default_factory=list)
    """The lines that are not carried out yet."""
    carried: list[str] = field(default_factory=list)
    """Lines carried out since the last observation, the failed one included, as the planner wrote them."""
    broken: tuple[Step, ...] = ()
    """The line that failed or was interrupted last; empty if the last one succeeded."""
    ahead: Done | None = None
    """How the first line ended, if it was carried out before the plan was complete."""
    unread: bool = False
    """Whether the plan could not be read, and a line of it was carried out before that was known."""

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def calls(self) -> list[Call]:
        """The lines that are not carried out yet, as they were read."""
        return [call for call, _ in self.steps]

    @property
    def rest(self) -> tuple[Step, ...]:
        """What a new plan may repeat: the line that failed or was interrupted, if one did, and those not begun."""
        return (*self.broken, *self.steps)

    @property
    def draft(self) -> str:
        """The same as the planner wrote it, one line each, the first with the number of its subgoal: the draft of a new plan."""
        lines = [line for _, line in self.rest]
        if lines and not subgoal_number(lines[0]):
            lines[0] = next(filter(None, map(subgoal_number, reversed(self.carried))), "") + lines[0]
        return "\n".join(lines)

    def follow(self, steps: Sequence[Step]) -> None:
        """Take up a plan."""
        self.steps = list(steps)

    def finish(self, step: Step, outcome: Outcome) -> None:
        """Note how a line ended that was taken off the plan."""
        self.carried.append(step[1])
        self.broken = () if outcome.succeeded else (step,)


def as_written(text: str, calls: Sequence[Call]) -> list[Step]:
    """Pair the calls of a plan with its lines as they were written, where each line holds one call; else as they were read."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(call, line) for call, line in zip(calls, lines if len(lines) == len(calls) else [c.text for c in calls], strict=True)]
