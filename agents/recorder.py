"""The records of one episode under way, given to a sink one by one."""

from dataclasses import dataclass
from typing import Any

from agents.early import Ahead
from agents.job import EpisodeJob
from agents.protocols import Sink
from agents.records import PlannerCall, StepRecord, TranscriptRecord
from agents.world import Outcome, Progress
from planner import Entry, Generation, PlanParseError, ReplanReason


@dataclass(frozen=True)
class Request:
    """One request to the planner."""

    reason: ReplanReason
    """Why it is made."""
    begin: float
    """When it began, by ``time.perf_counter`` in seconds."""
    rest: tuple[str, ...]
    """What is left of the plan before it."""
    draft: str = ""
    """The same as the planner wrote it, one line each: the draft of the new plan."""
    waited_s: float = 0.0
    """Seconds that the agent had waited for this plan before, for an answer that could not be read."""


@dataclass(frozen=True)
class Reply:
    """The planner's answer to a request, and what it took."""

    generation: Generation
    """The answer, as the backend gave it."""
    history_entries: int
    """Entries of the history in its prompt."""
    forbidden: int
    """Plans that the planner was told not to give again."""
    backend_s: float
    """Seconds inside the backend."""
    own_s: float
    """Seconds of the agent's own work on the request."""
    observe_s: float = 0.0
    """Seconds in which the backend took in the history before."""
    plan: tuple[str, ...] | None = None
    """The lines of the plan; ``None`` where it could not be read."""
    error: PlanParseError | None = None
    """Why it could not be read."""
    ahead: Ahead | None = None
    """The line of it that was carried out before it was complete."""

    def wait_s(self, request: Request) -> float:
        """Return the seconds that the agent waited until it could act: for the first line where that was carried out ahead."""
        known_s = self.own_s + self.backend_s if self.ahead is None else self.ahead.known - request.begin
        return request.waited_s + known_s


@dataclass(frozen=True)
class Thought:
    """What the clock counted for one planner call."""

    seconds: float | None = None
    """Seconds of thinking; ``None`` where the world waits."""
    steps: int = 0
    """Environment steps that passed. Fewer than the seconds ask for where the episode ended meanwhile."""


@dataclass(frozen=True)
class Spent:
    """What one line of a plan took."""

    env_steps: int
    """Environment steps."""
    reward: float
    """Sum of their rewards."""
    place: str | None
    """Where the agent was at its end; ``None`` where the world has no places."""
    disturbances: list[str]
    """What happened without the agent's doing."""


@dataclass
class Recorder:
    """Writes the records of one episode."""

    job: EpisodeJob
    """The episode."""
    sink: Sink
    """Called with each record."""
    early: bool = False
    """Whether lines may be carried out before their plan is complete."""

    @property
    def key(self) -> dict[str, Any]:
        """The fields that every record of the episode begins with."""
        backend, env_id, seed = self.job.key
        return {"backend": backend, "env_id": env_id, "seed": seed}

    def entry(self, index: int, entry: Entry) -> None:
        """Record an entry of the history."""
        self.sink(TranscriptRecord(**self.key, index=index, entry=entry.kind, text=entry.text))

    def call(self, number: int, env_step: int, request: Request, reply: Reply, thought: Thought) -> None:
        """Record a planner call, the episode's ``number``-th from 0, made after ``env_step`` environment steps."""
        made, ahead = reply.generation, reply.ahead
        self.sink(
            PlannerCall(
                **self.key,
                replan=number,
                env_step=env_step,
                reason=request.reason,
                history_entries=reply.history_entries,
                generation=made,
                backend_s=reply.backend_s,
                overhead_s=reply.own_s + made.tokenize_s,
                replan_s=request.waited_s + reply.own_s + reply.backend_s,
                parse_error=None if reply.error is None else str(reply.error),
                horizon=self.job.horizon,
                plan=reply.plan,
                rest=request.rest,
                draft=request.draft,
                forbidden=reply.forbidden,
                observe_s=reply.observe_s,
                clock_s=thought.seconds,
                clock_steps=thought.steps,
                wait_s=reply.wait_s(request) if self.early else None,
                early=None if ahead is None else ahead.call.text,
                wait_rest_s=0.0 if ahead is None else ahead.rest_s,
            )
        )

    def step(self, replan: int, line: str, outcome: Outcome, spent: Spent, progress: Progress) -> None:
        """Record one line of a plan, the episode's ``replan``-th from 0."""
        self.sink(
            StepRecord(
                **self.key,
                replan=replan,
                skill=line,
                succeeded=outcome.succeeded,
                outcome=outcome.text,
                env_steps=spent.env_steps,
                reward=spent.reward,
                place=spent.place,
                disturbances=spent.disturbances,
                subgoals_done=progress.done,
                subgoals_total=progress.total,
            )
        )
