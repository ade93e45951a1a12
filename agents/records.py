"""What a run writes: one JSON line per record, in the order in which things happen.

Times are seconds of wall clock, sizes bytes. A transcript (``TranscriptRecord`` lines) holds every history entry once. The prompt
of a replan is the episode's system text and the first ``history_entries`` entries, so recorded prompts can be replayed exactly.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_serializer, model_validator

from agents.old_records import upgraded
from planner import Generation, Horizon, ReplanReason
from planner.history import EntryKind

End = Literal["success", "step_limit", "gave_up", "terminated", "replan_limit", "context_limit", "plan_end"]
"""Why an episode ended: task fulfilled, too many steps, the planner said ``done``, the world ended it, too many replans, a history
too long for the planner's model, or the end of a plan where the policy makes no new one."""


class Record(BaseModel):
    """Base of all records: immutable, unknown fields refused. Its fields identify the episode within a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    backend: str
    """Spec string of the planner backend."""
    env_id: str
    """Gymnasium id of the environment."""
    seed: int
    """Seed of the episode."""


class _Upgraded(Record):
    """Base of the records whose first form was another one."""

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, fields: Any) -> Any:
        """Convert fields of the first form into today's."""
        return upgraded(fields) if isinstance(fields, dict) else fields


class TranscriptRecord(Record):
    """One entry of the history."""

    kind: Literal["transcript"] = "transcript"
    index: int
    """Place in the history, from 0."""
    entry: EntryKind
    """What it is, such as the task, an observation, a plan, or the outcome of one line of a plan."""
    text: str
    """What the planner reads, or wrote."""


class PlannerCall(_Upgraded):
    """One replan: why, what it read, what it wrote, what it cost."""

    kind: Literal["planner_call"] = "planner_call"
    replan: int
    """Number of the replan in its episode, from 0."""
    env_step: int
    """Environment steps taken before it."""
    reason: ReplanReason
    """Why the policy asked for it."""
    history_entries: int
    """Entries of the history in its prompt."""
    generation: Generation
    """The backend's answer and its measurements. Token ids are not recorded."""
    backend_s: float
    """Seconds inside the backend."""
    overhead_s: float
    """Seconds of the replan spent on observation text, tokenization and parsing."""
    replan_s: float
    """Replan latency: seconds from the observation to the parsed plan, an unreadable first answer included."""
    parse_error: str | None = None
    """Why the plan could not be read; ``None`` where it could."""
    horizon: Horizon = "subgoal"
    """How far its plan reaches."""
    plan: tuple[str, ...] | None = None
    """The lines of its plan, as they were read; ``None`` where it could not be read, and in older records."""
    rest: tuple[str, ...] = ()
    """What was left of the plan before it: the line that failed or was interrupted, if one did, and those not begun."""
    draft: str = ""
    """The same as the planner wrote it: the draft of the new plan."""
    forbidden: int = 0
    """Plans that the backend was told not to give again, because they had been tried and changed nothing."""
    observe_s: float = 0.0
    """Seconds in which the backend took in the history while the agent acted, before the replan. They are in no latency."""
    clock_s: float | None = None
    """Seconds of thinking that the clock counted; ``None`` where the world waits for the planner."""
    clock_steps: int = 0
    """Environment steps that passed while the planner thought, right after ``env_step``."""
    wait_s: float | None = None
    """Seconds from the observation until the agent could act, an unreadable first answer included: until the first line of the plan
    was known where that was carried out early. ``None`` where agents wait for the whole plan."""
    early: str | None = None
    """The line that was carried out while the planner wrote the rest; ``None`` where there was none."""
    wait_rest_s: float = 0.0
    """Seconds that the agent waited for the rest of the plan after that line had ended."""

    @property
    def is_whole(self) -> bool:
        """Whether its answer is a whole plan: one that can be read, is not empty and was not cut."""
        return self.parse_error is None and not self.generation.truncated and bool(self.generation.text.strip())

    @field_serializer("generation", mode="wrap")
    def _without_token_ids(self, generation: Generation, serialize: Any) -> Any:
        """Leave out the token ids: the text says the same."""
        return {name: value for name, value in serialize(generation).items() if name != "token_ids"}


class StepRecord(_Upgraded):
    """One line of a plan: what was to be done, how it ended, what it took."""

    kind: Literal["step"] = "step"
    replan: int
    """Number of the replan whose plan it belongs to, from 0."""
    skill: str
    """The line of the plan."""
    succeeded: bool
    """Whether the line was carried out."""
    outcome: str
    """``ok``, or why it failed or was interrupted."""
    env_steps: int
    """Environment steps that it took."""
    reward: float
    """Sum of the rewards of these steps."""
    place: str | None
    """Where the agent was at its end; ``None`` where the world has no places."""
    disturbances: list[str]
    """What happened without the agent's doing in these steps, and before them while it thought or no plan could be read."""
    subgoals_done: int
    """Subgoals reached at its end."""
    subgoals_total: int
    """Subgoals of the task."""


class EpisodeRecord(Record):
    """One finished episode."""

    kind: Literal["episode"] = "episode"
    success: bool
    """Whether the task was fulfilled."""
    subgoals_done: int
    """Subgoals reached."""
    subgoals_total: int
    """Subgoals of the task."""
    env_steps: int
    """Environment steps taken, those of ``thinking_steps`` included."""
    max_steps: int
    """Environment steps allowed."""
    replans: int
    """Planner calls, those whose answer could not be read included."""
    skills: int
    """Lines of plans carried out."""
    parse_errors: int
    """Answers that could not be read."""
    reward: float
    """Sum of rewards."""
    end: End
    """Why it ended."""
    wall_s: float
    """Seconds that the episode took."""
    thinking_steps: int = 0
    """Environment steps that passed while the planner thought; 0 where the world waits for it."""
    system: str | None = None
    """System text of its prompts; ``None`` in records of the first form, whose text was ``planner.system_text()``."""
    digest: str | None = None
    """Digest of the episode's records, by which a changed file is known; ``None`` in older records."""


AnyRecord = Annotated[TranscriptRecord | PlannerCall | StepRecord | EpisodeRecord, Field(discriminator="kind")]
RECORD: TypeAdapter[TranscriptRecord | PlannerCall | StepRecord | EpisodeRecord] = TypeAdapter(AnyRecord)
