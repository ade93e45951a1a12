"""What a run writes: one JSON line per record, in the order in which things happen.

Times are seconds, sizes bytes. A transcript (``TranscriptRecord`` lines) holds every history entry once; the prompt of replan k is
the first ``history_entries`` of them, so that recorded prompts can be replayed exactly.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from planner.history import EntryKind
from planner.policy import ReplanReason


class Record(BaseModel):
    """Base of all records: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: str
    env_id: str
    seed: int


class TranscriptRecord(Record):
    """One entry of the history."""

    kind: Literal["transcript"] = "transcript"
    index: int
    entry: EntryKind
    text: str


class PlannerCall(Record):
    """One replan: why, what it read, what it wrote, what it cost; under a latency budget also what it was predicted to cost."""

    kind: Literal["planner_call"] = "planner_call"
    replan: int
    env_step: int
    reason: ReplanReason
    history_entries: int
    prompt_tokens: int
    stage_tokens: list[int]
    layer_tokens: list[int]
    kept_share: float
    dropped_tokens: int
    reused_tokens: int
    new_tokens: int
    ttft_s: float
    decode_s: float
    tpot_s: float
    first_skill_s: float
    backend_s: float
    overhead_s: float
    replan_s: float
    kv_bytes: int
    peak_memory_bytes: int
    plan_text: str
    parse_errors: int
    parse_error: str | None = None
    schedule: str = ""
    budget_s: float | None = None
    predicted_s: float | None = None
    budget_met: bool | None = None


class StepRecord(Record):
    """One skill: what was asked, how it ended, what it took."""

    kind: Literal["step"] = "step"
    replan: int
    skill: str
    succeeded: bool
    outcome: str
    env_steps: int
    reward: float
    room: str
    disturbances: list[str]
    subgoals_done: int
    subgoals_total: int


class EpisodeRecord(Record):
    """One finished episode."""

    kind: Literal["episode"] = "episode"
    success: bool
    subgoals_done: int
    subgoals_total: int
    env_steps: int
    max_steps: int
    replans: int
    skills: int
    parse_errors: int
    reward: float
    end: Literal["success", "step_limit", "gave_up", "terminated", "replan_limit", "context_limit"]
    wall_s: float


AnyRecord = Annotated[TranscriptRecord | PlannerCall | StepRecord | EpisodeRecord, Field(discriminator="kind")]
RECORD: TypeAdapter[TranscriptRecord | PlannerCall | StepRecord | EpisodeRecord] = TypeAdapter(AnyRecord)
