"""The agent's loop: observe, replan when the policy says so, carry out the plan line by line, record.

One path for every backend and every world. What happens in the world depends on the agent's actions, never on how long it thought.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import structlog

from agents.families import make_world
from agents.job import EpisodeJob
from agents.protocols import AgentConfig, FrameSink, Sink, WorldBackend
from agents.records import End, EpisodeRecord, PlannerCall, StepRecord, TranscriptRecord
from agents.world import Call, Outcome, Tick, failed
from planner import (
    Generation,
    History,
    LoopState,
    PlannerBackend,
    PlanParseError,
    Prompt,
    PromptTooLongError,
    ReplanReason,
    build_prompt,
)
from planner.history import EntryKind

__all__ = ["AgentConfig", "End", "Episode", "FrameSink", "Sink", "WorldBackend", "run_episode"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Request:
    """One request to the planner: why it is made, when it began, and how long the agent had waited for a plan by then."""

    reason: ReplanReason
    begin: float
    waited_s: float = 0.0


@dataclass
class Episode:
    """One episode under way."""

    job: EpisodeJob
    backend: PlannerBackend | WorldBackend
    config: AgentConfig
    sink: Sink
    frames: FrameSink | None = None
    history: History = field(default_factory=History)
    plan: list[Call] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    disturbances: list[str] = field(default_factory=list)
    planned_for: str = ""
    caption: str = "start"
    failed: bool = False
    started: bool = False
    goal_interrupted: bool = False
    env_steps: int = 0
    replans: int = 0
    skills: int = 0
    since_replan: int = 0
    parse_errors: int = 0
    reward: float = 0.0
    end: End | None = None

    def __post_init__(self) -> None:
        self.world = make_world(self.job, render=self.frames is not None)
        self.progress = self.world.reset(self.job.seed)
        self._show()
        self._append("task", self.progress.task)

    # ---- planning --------------------------------------------------------------------------------------------------------------

    def replan(self, reason: ReplanReason) -> None:
        """Observe, ask the backend, read the plan. A plan that cannot be read is asked for once more."""
        self.since_replan = 0
        self.started, self.goal_interrupted = True, False
        request = _Request(reason, time.perf_counter())
        self._observe()
        try:
            self.plan = self._ask(request)
        except PlanParseError as error:
            self._ask_again(error, time.perf_counter() - request.begin)

    def _ask_again(self, error: PlanParseError, waited_s: float) -> None:
        """Ask once more, if a replan is left for it. Where no plan can be read the plan has failed, which costs a step."""
        try:
            if self.replans >= self.config.max_replans:
                raise error
            self._append("feedback", f"That plan could not be read: {error}.")
            self.plan = self._ask(_Request("parse_error", time.perf_counter(), waited_s))
        except PlanParseError as last:
            self.plan, self.failed = [], True
            self.outcomes.append(("plan", failed(last.reason).text))
            self._take(self.world.idle())

    def _observe(self) -> None:
        self._append("observation", self.world.describe(self.outcomes))
        self.outcomes, self.failed, self.planned_for = [], False, self.progress.goal

    def _ask(self, request: _Request) -> list[Call]:
        prompt, entries = build_prompt(self.history, self.world.system), len(self.history.entries)
        asked = time.perf_counter()
        generation = self._generate(prompt)
        backend_s = time.perf_counter() - asked
        self._append("plan", generation.text if generation.text.strip() else "(empty)")
        error: PlanParseError | None = None
        calls: list[Call] = []
        try:
            calls = list(self.world.parse(generation.complete_text))
        except PlanParseError as caught:
            error = caught
            self.parse_errors += 1
        own_s = time.perf_counter() - request.begin - backend_s
        self._record_call(request, entries, generation, backend_s, own_s, error)
        self.replans += 1
        if error is not None:
            raise error
        return calls

    def _generate(self, prompt: Prompt) -> Generation:
        if isinstance(self.backend, WorldBackend):
            return self.backend.plan(self.world, prompt, self.config.sampling)
        return self.backend.generate(prompt, self.config.sampling)

    # ---- acting ----------------------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Carry out the next line of the plan. A line that needs no environment step still takes one, so every plan costs time."""
        call = self.plan.pop(0)
        self.caption = call.text
        steps, reward = self.env_steps, self.reward
        outcome = self._carry_out(call)
        if self.env_steps == steps and self.end is None:
            self._take(self.world.idle())
        self.outcomes.append((call.text, outcome.text))
        self.failed, self.goal_interrupted = not outcome.succeeded, self.goal_interrupted or outcome.goal_changed
        self.skills += 1
        self.since_replan += 1
        self._record_step(call, outcome, self.env_steps - steps, self.reward - reward)
        self.disturbances = []
        if outcome.gave_up and self.end is None:
            self.end = "gave_up"

    def _carry_out(self, call: Call) -> Outcome:
        """Take the world's ticks until the line of the plan, or the episode, ends."""
        run = self.world.run(call)
        try:
            while self.end is None:
                self._take(next(run))
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome
        run.close()
        return _OUTCOME_AT_END[self.end]

    def _take(self, tick: Tick) -> None:
        """Take in what one environment step brought."""
        self.env_steps += 1
        self.reward += tick.reward
        self.progress = tick.progress
        self.disturbances += tick.disturbances
        self._show()
        if tick.success:
            self.end = "success"
        elif tick.terminated:
            self.end = "terminated"
        elif tick.truncated:
            self.end = "step_limit"

    def state(self) -> LoopState:
        """Sum up what the replan policy looks at."""
        return LoopState(
            started=self.started,
            skills_left=len(self.plan),
            skills_since_replan=self.since_replan,
            last_failed=self.failed,
            surprised=bool(self.plan) and self.world.touches(self.plan),
            goal_changed=self.goal_interrupted or (bool(self.plan) and self.progress.goal != self.planned_for),
        )

    # ---- records ---------------------------------------------------------------------------------------------------------------

    @property
    def key(self) -> dict[str, Any]:
        """The fields that every record of the episode begins with."""
        return {"backend": self.job.backend, "env_id": self.job.env_id, "seed": self.job.seed}

    def _record_call(
        self, request: _Request, entries: int, made: Generation, backend_s: float, own_s: float, error: PlanParseError | None
    ) -> None:
        self.sink(
            PlannerCall(
                **self.key,
                replan=self.replans,
                env_step=self.env_steps,
                reason=request.reason,
                history_entries=entries,
                generation=made,
                backend_s=backend_s,
                overhead_s=own_s + made.tokenize_s,
                replan_s=request.waited_s + own_s + backend_s,
                parse_error=None if error is None else str(error),
            )
        )

    def _record_step(self, call: Call, outcome: Outcome, env_steps: int, reward: float) -> None:
        self.sink(
            StepRecord(
                **self.key,
                replan=self.replans - 1,
                skill=call.text,
                succeeded=outcome.succeeded,
                outcome=outcome.text,
                env_steps=env_steps,
                reward=reward,
                place=self.world.place,
                disturbances=self.disturbances,
                subgoals_done=self.progress.done,
                subgoals_total=self.progress.total,
            )
        )

    def record(self, end: End, wall_s: float) -> EpisodeRecord:
        """Sum up the episode, which ended for the reason ``end`` after ``wall_s`` seconds."""
        return EpisodeRecord(
            **self.key,
            success=end == "success",
            subgoals_done=self.progress.done,
            subgoals_total=self.progress.total,
            env_steps=self.env_steps,
            max_steps=self.world.max_steps,
            replans=self.replans,
            skills=self.skills,
            parse_errors=self.parse_errors,
            reward=self.reward,
            end=end,
            wall_s=wall_s,
            system=self.world.system,
        )

    def _append(self, kind: EntryKind, text: str) -> None:
        index = len(self.history.entries)
        self.history = self.history.append(kind, text)
        self.sink(TranscriptRecord(**self.key, index=index, entry=kind, text=text))

    def _show(self) -> None:
        frame = self.world.frame() if self.frames is not None else None
        if self.frames is not None and frame is not None:
            self.frames(frame, self.caption)


_OUTCOME_AT_END: dict[End | None, Outcome] = {
    "success": Outcome(True),
    "terminated": Outcome(False, "interrupted, the world ended the episode"),
    "step_limit": Outcome(False, "interrupted, out of time"),
}
"""How the line of a plan ends in whose course the episode does."""


def run_episode(
    job: EpisodeJob,
    backend: PlannerBackend | WorldBackend,
    config: AgentConfig,
    sink: Sink,
    frames: FrameSink | None = None,
) -> EpisodeRecord:
    """Play one episode.

    Parameters
    ----------
    job
        Which environment, under which seed and limit of steps.
    backend
        What plans.
    config
        When to replan, how to decode, how many replans.
    sink
        Takes every record as it comes, the episode's own last.
    frames
        Takes a picture per environment step, where the world can be drawn.

    Returns
    -------
    EpisodeRecord
        The last record.

    Raises
    ------
    ValueError
        For an environment that is unknown or cannot be played. What the backend raises is passed on.
    """
    begin = time.perf_counter()
    episode = Episode(job, backend, config, sink, frames)
    try:
        end = _play(episode)
    finally:
        episode.world.close()
    record = episode.record(end, time.perf_counter() - begin)
    sink(record)
    return record


def _play(episode: Episode) -> End:
    """Replan and act until the episode ends."""
    while episode.end is None:
        reason = episode.config.policy.reason(episode.state())
        if reason is not None and episode.replans >= episode.config.max_replans:
            episode.end = "replan_limit"
        elif reason is not None:
            _replan(episode, reason)
        if episode.plan and episode.end is None:
            episode.act()
    return episode.end


def _replan(episode: Episode, reason: ReplanReason) -> None:
    """Replan; a history that has outgrown the backend's context ends the episode, not the run."""
    try:
        episode.replan(reason)
    except PromptTooLongError as error:
        log.warning("the history has outgrown the backend", env_id=episode.job.env_id, seed=episode.job.seed, reason=str(error))
        episode.end = "context_limit"
