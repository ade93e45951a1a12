"""The agent's loop: observe, replan when the policy says so, execute the plan's skills step by step, record.

One path for every backend. What happens to the house and what the agent sees depend on its actions, never on how long it thought.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import structlog
from minigrid.core.actions import Actions

from agents.gridworld.belief import Belief
from agents.gridworld.situation import report
from agents.gridworld.skills import Outcome, failed, start_skill
from agents.job import EpisodeJob
from agents.protocols import AgentConfig, BeliefAware, End, FrameSink, Sink
from agents.records import EpisodeRecord, PlannerCall, StepRecord, TranscriptRecord
from envs import describe, make_env, task_text, verbosity_of
from planner import (
    Generation,
    History,
    LoopState,
    PlannerBackend,
    PlanParseError,
    PromptTooLongError,
    ReplanReason,
    SkillCall,
    build_prompt,
    parse_plan,
)

__all__ = ["AgentConfig", "BeliefAware", "End", "Episode", "FrameSink", "Sink", "run_episode"]

log = structlog.get_logger(__name__)


@dataclass
class Episode:
    """One episode under way."""

    job: EpisodeJob
    backend: PlannerBackend
    config: AgentConfig
    sink: Sink
    frames: FrameSink | None = None
    history: History = field(default_factory=History)
    plan: list[SkillCall] = field(default_factory=list)
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
        render = "rgb_array" if self.frames else None
        self.env = make_env(self.job.env_id, render_mode=render, max_steps=self.job.max_steps)
        observation, self.info = self.env.reset(seed=self.job.seed)
        base: Any = self.env if hasattr(self.env, "room_names") else self.env.unwrapped
        self.belief = Belief(base.room_names, base.unique_names)
        self.belief.update(observation)
        self._show()
        self._append("task", task_text(self.info["subgoals"]))

    # ---- planning --------------------------------------------------------------------------------------------------------------

    def replan(self, reason: ReplanReason) -> None:
        """Observe, ask the backend, read the plan; one that cannot be read is asked for once more."""
        self.since_replan = 0
        self.started, self.goal_interrupted = True, False
        begin = time.perf_counter()
        self._observe()
        try:
            self.plan = self._ask(reason, begin)
        except PlanParseError as error:
            self._ask_again(error, time.perf_counter() - begin)

    def _ask_again(self, error: PlanParseError, waited: float) -> None:
        """Once, if a replan is left for it; where no plan can be read the plan has failed, which costs a step.

        The agent has ``waited`` seconds already: the second request's replan latency includes them.
        """
        try:
            if self.replans >= self.config.max_replans:
                raise error
            self._append("feedback", f"That plan could not be read: {error}.")
            self.plan = self._ask("parse_error", time.perf_counter(), waited)
        except PlanParseError as last:
            self.plan, self.failed = [], True
            self.outcomes.append(("plan", failed(f"{last.reason}").text))
            self._step(int(Actions.done))

    def _observe(self) -> None:
        info = self.info
        seen = report(self.belief, self.outcomes, info["subgoal"], info["subgoals_done"], info["subgoals_total"])
        self._append("observation", describe(seen, self.job.verbosity or verbosity_of(self.job.env_id)))
        self.belief.clear_news()
        self.belief.surprises.clear()
        self.outcomes, self.failed, self.planned_for = [], False, info["subgoal"]

    def _ask(self, reason: ReplanReason, begin: float, waited: float = 0.0) -> list[SkillCall]:
        prompt, entries = build_prompt(self.history), len(self.history.entries)
        if isinstance(self.backend, BeliefAware):
            self.backend.observe(self.belief, self.planned_for)
        asked = time.perf_counter()
        generation = self.backend.generate(prompt, self.config.sampling)
        backend_s = time.perf_counter() - asked
        self._append("plan", generation.text if generation.text.strip() else "(empty)")
        error: PlanParseError | None = None
        skills: list[SkillCall] = []
        try:
            skills = list(parse_plan(generation.complete_text).skills)
        except PlanParseError as caught:
            error = caught
            self.parse_errors += 1
        self.replans += 1
        own_s = time.perf_counter() - begin - backend_s
        self.sink(self._call(reason, entries, generation, waited + own_s + backend_s, backend_s, own_s, error))
        if error is not None:
            raise error
        return skills

    def _call(
        self,
        reason: ReplanReason,
        entries: int,
        made: Generation,
        replan_s: float,
        backend_s: float,
        own_s: float,
        error: PlanParseError | None,
    ) -> PlannerCall:
        return PlannerCall(
            **self._key(),
            replan=self.replans - 1,
            env_step=self.env_steps,
            reason=reason,
            history_entries=entries,
            prompt_tokens=made.prompt_tokens,
            stage_tokens=list(made.stage_tokens),
            layer_tokens=list(made.layer_tokens),
            kept_share=made.kept_share,
            dropped_tokens=made.dropped_tokens,
            reused_tokens=made.reused_tokens,
            new_tokens=made.new_tokens,
            ttft_s=made.ttft_s,
            decode_s=made.decode_s,
            tpot_s=made.tpot_s,
            first_skill_s=made.first_skill_s,
            backend_s=backend_s,
            overhead_s=own_s + made.tokenize_s,
            replan_s=replan_s,
            kv_bytes=made.kv_bytes,
            peak_memory_bytes=made.peak_memory_bytes,
            plan_text=made.text,
            parse_errors=int(error is not None),
            parse_error=None if error is None else str(error),
            schedule=made.schedule,
            budget_s=made.budget_s,
            predicted_s=made.predicted_s,
            budget_met=made.budget_met,
        )

    # ---- acting ----------------------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Execute the next skill of the plan. A skill that needs no step still takes one: thinking is no way to stop the clock."""
        call = self.plan.pop(0)
        self.caption = call.text
        steps, reward = self.env_steps, self.reward
        outcome = self._run(call)
        if self.env_steps == steps and self.end is None:
            self._step(int(Actions.done))
        self.outcomes.append((call.text, outcome.text))
        self.failed = not outcome.succeeded
        self.skills += 1
        self.since_replan += 1
        self.sink(
            StepRecord(
                **self._key(),
                replan=self.replans - 1,
                skill=call.text,
                succeeded=outcome.succeeded,
                outcome=outcome.text,
                env_steps=self.env_steps - steps,
                reward=self.reward - reward,
                room=self.belief.here_name,
                disturbances=self.disturbances,
                subgoals_done=self.info["subgoals_done"],
                subgoals_total=self.info["subgoals_total"],
            )
        )
        self.disturbances = []
        if call.name == "done" and self.end is None:
            self.end = "gave_up"

    def _run(self, call: SkillCall) -> Outcome:
        """Step the skill through the environment until it ends, or something takes the ground from under it."""
        run = start_skill(self.belief, call)
        held = self.belief.held
        try:
            action = next(run)
            while True:
                self._step(action)
                if self.end is not None:
                    return Outcome(self.end == "success", "ok" if self.end == "success" else "interrupted, out of time")
                if held is not None and self.belief.held is None and action != Actions.drop:
                    return Outcome(False, "interrupted, the held thing fell from the hand")
                if "goal changed" in self.disturbances and self._goal_changed():
                    self.goal_interrupted = True
                    return Outcome(False, "interrupted, the goal changed")
                held = self.belief.held
                action = next(run)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome

    def _step(self, action: int) -> None:
        observation, reward, terminated, truncated, self.info = self.env.step(action)
        self.env_steps += 1
        self.reward += float(reward)
        self.disturbances += self.info["disturbances"]
        self.belief.update(observation, action)
        self._show()
        if self.info["success"]:
            self.end = "success"
        elif terminated:
            self.end = "terminated"
        elif truncated:
            self.end = "step_limit"

    def _goal_changed(self) -> bool:
        return bool(self.info["subgoal"] != self.planned_for)

    def _surprised(self) -> bool:
        """Whether what contradicted the belief matters to the rest of the plan."""
        rest = " ".join([self.planned_for, *(skill.text for skill in self.plan)])
        return any(name in rest for name in self.belief.surprises)

    def state(self) -> LoopState:
        """What the policy looks at."""
        return LoopState(
            started=self.started,
            skills_left=len(self.plan),
            skills_since_replan=self.since_replan,
            last_failed=self.failed,
            surprised=bool(self.plan) and self._surprised(),
            goal_changed=self.goal_interrupted or (bool(self.plan) and self._goal_changed()),
        )

    # ---- records ---------------------------------------------------------------------------------------------------------------

    def _key(self) -> dict[str, Any]:
        return {"backend": self.job.backend, "env_id": self.job.env_id, "seed": self.job.seed}

    def _append(self, kind: Literal["task", "observation", "plan", "feedback"], text: str) -> None:
        index = len(self.history.entries)
        self.history = self.history.append(kind, text)
        self.sink(TranscriptRecord(**self._key(), index=index, entry=kind, text=text))

    def _show(self) -> None:
        if self.frames is not None:
            self.frames(np.asarray(self.env.render(), dtype=np.uint8), self.caption)


def run_episode(
    job: EpisodeJob, backend: PlannerBackend, config: AgentConfig, sink: Sink, frames: FrameSink | None = None
) -> EpisodeRecord:
    """Play one episode. Every record goes to ``sink`` as it comes; the last one is returned too.

    Raises ``ValueError`` for an unknown environment, and whatever the backend raises.
    """
    begin = time.perf_counter()
    episode = Episode(job, backend, config, sink, frames)
    base: Any = episode.env.unwrapped
    try:
        while episode.end is None:
            reason = config.policy.reason(episode.state())
            if reason is not None and episode.replans >= config.max_replans:
                episode.end = "replan_limit"
            elif reason is not None:
                _replan(episode, reason)
            if episode.plan and episode.end is None:
                episode.act()
    finally:
        episode.env.close()
    record = EpisodeRecord(
        **episode._key(),
        success=episode.end == "success",
        subgoals_done=episode.info["subgoals_done"],
        subgoals_total=episode.info["subgoals_total"],
        env_steps=episode.env_steps,
        max_steps=int(base.max_steps),
        replans=episode.replans,
        skills=episode.skills,
        parse_errors=episode.parse_errors,
        reward=episode.reward,
        end=episode.end,
        wall_s=time.perf_counter() - begin,
    )
    sink(record)
    return record


def _replan(episode: Episode, reason: ReplanReason) -> None:
    """A history that has outgrown the backend's context ends the episode, not the run."""
    try:
        episode.replan(reason)
    except PromptTooLongError as error:
        log.warning("the history has outgrown the backend", env_id=episode.job.env_id, seed=episode.job.seed, reason=str(error))
        episode.end = "context_limit"
