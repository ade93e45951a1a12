"""What a picture of an episode tells, gathered from the loop's moments and records. Nothing is drawn here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agents.job import EpisodeJob
from agents.protocols import Moment
from agents.records import EpisodeRecord, PlannerCall, Record, StepRecord
from planner import ReplanReason

State = Literal["todo", "now", "done", "failed"]
"""State of one line of the plan."""
Tone = Literal["replan", "disturbance", "failure", "success"]
"""What a note is about; it decides its colour."""

REASONS: Mapping[ReplanReason, str] = {
    "start": "first plan",
    "failure": "a skill failed",
    "surprise": "something was out of place",
    "goal_changed": "the goal changed",
    "subgoal_reached": "a subgoal is reached",
    "plan_end": "the plan is done",
    "interval": "a fixed number of skills",
    "parse_error": "the answer could not be read",
}
"""Reasons of a replan in words."""
ENDS = {
    "success": "Task done",
    "step_limit": "Out of steps",
    "gave_up": "The planner gave up",
    "terminated": "The world ended the episode",
    "replan_limit": "Out of replans",
    "context_limit": "The history no longer fits the model",
    "plan_end": "The plan is done, and the policy asks for no other",
}
"""Ends of an episode in words."""


@dataclass
class PlanLine:
    """One line of the current plan."""

    text: str
    """The line."""
    state: State = "todo"
    """How far it is."""


@dataclass(frozen=True)
class Note:
    """One thing that happened at this moment."""

    tone: Tone
    """What it is about."""
    text: str
    """What happened."""


@dataclass
class Story:
    """The story of an episode so far.

    ``see`` takes the loop's moments and ``take`` its records, in the order in which they come.
    """

    job: EpisodeJob
    """The episode."""
    moment: Moment | None = None
    """The latest moment."""
    call: PlannerCall | None = None
    """The latest replan."""
    plan: list[PlanLine] = field(default_factory=list)
    """All lines of the current plan."""
    notes: list[Note] = field(default_factory=list)
    """What happened at this moment."""
    past: list[tuple[int, Note]] = field(default_factory=list)
    """What happened before, each with its environment step, oldest first."""

    def see(self, moment: Moment) -> None:
        """Take a moment. One of another environment step clears the notes."""
        if self.moment is not None and moment.env_step != self.moment.env_step:
            self.past += [(self.moment.env_step, note) for note in self.notes]
            self.notes = []
        self.moment = moment
        self.notes += [Note("disturbance", text) for text in moment.disturbances]
        if moment.line == "":
            self.plan = [PlanLine(text) for text in moment.rest]
            return
        index = self._index(moment)
        if index is not None and self.plan[index].state == "todo":
            self.plan[index].state = "now"

    def take(self, record: Record) -> None:
        """Take a record."""
        if isinstance(record, PlannerCall):
            self.call = record
            self.notes.append(Note("replan", f"Replan {record.replan + 1}: {REASONS[record.reason]}"))
            if record.parse_error is not None:
                self.notes.append(Note("failure", f"Unreadable answer: {record.parse_error}"))
        elif isinstance(record, StepRecord):
            self._finish(record)
        elif isinstance(record, EpisodeRecord):
            tone: Tone = "success" if record.success else "failure"
            steps = f"{record.env_steps} steps, {record.replans} replans"
            self.notes.append(
                Note(tone, f"{ENDS[record.end]}: {record.subgoals_done} of {record.subgoals_total} subgoals, {steps}")
            )

    def _finish(self, record: StepRecord) -> None:
        """Mark the line that has ended."""
        index = None if self.moment is None else self._index(self.moment)
        if index is not None:
            self.plan[index].state = "done" if record.succeeded else "failed"
        if not record.succeeded:
            self.notes.append(Note("failure", f"{record.skill}: {record.outcome}"))

    def _index(self, moment: Moment) -> int | None:
        """Return which line of the plan is carried out; ``None`` where it is none of them."""
        index = len(self.plan) - len(moment.rest) - 1
        fits = 0 <= index < len(self.plan) and self.plan[index].text == moment.line
        return index if fits else None
