"""One episode under way: what the agent knows of it, and the two things that the loop does with it, replan and act."""

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from agents.current_plan import CurrentPlan, Step, as_written
from agents.early import Ahead, Answer, AnswerThread, Done
from agents.families import make_world
from agents.job import EpisodeJob
from agents.pictures import Pictures
from agents.protocols import AgentConfig, FrameSink, Moment, Sink, WorldBackend
from agents.recorder import Recorder, Reply, Request, Spent, Thought
from agents.records import End, EpisodeRecord
from agents.repeats import Repeats
from agents.world import Call, Outcome, Tick, failed
from agents.world_extras import Reader, briefing_of, grammar_of, note_of, reader_of, state_of
from planner import (
    Generation,
    History,
    LoopState,
    ObservingBackend,
    PlannerBackend,
    PlanParseError,
    Prompt,
    ReplanReason,
    Sampling,
    build_prompt,
    cut_note,
    format_of,
)
from planner.answer import without_reasoning
from planner.history import EntryKind


@dataclass
class Episode:
    """One episode under way."""

    job: EpisodeJob
    """The episode to play."""
    backend: PlannerBackend | WorldBackend
    """The planner."""
    config: AgentConfig
    """Settings of the agent."""
    sink: Sink
    """Called with each record."""
    frames: FrameSink | None = None
    """Called with each picture of the world."""
    history: History = field(default_factory=History)
    """All entries so far."""
    plan: CurrentPlan = field(default_factory=CurrentPlan)
    """The plan that is carried out."""
    outcomes: list[tuple[str, str]] = field(default_factory=list)
    """Lines carried out since the last observation, with their outcomes."""
    disturbances: list[str] = field(default_factory=list)
    """Disturbances since the last line was recorded."""
    repeats: Repeats = field(default_factory=Repeats)
    """Which plans were tried in which state of the world."""
    asked_in: Hashable = None
    """The state of the world at the last request to the planner."""
    caption: str = "start"
    """Text below the pictures: the current line of the plan."""
    failed: bool = False
    """Whether the last line, or the last plan as a whole, failed."""
    started: bool = False
    """Whether there has been a replan."""
    goal_interrupted: bool = False
    """Whether a line was interrupted because the goal changed, since the last replan."""
    env_steps: int = 0
    """Environment steps so far."""
    thinking_steps: int = 0
    """Those of them that passed while the planner thought."""
    clock_rest: float = 0.0
    """Fraction of an environment step that the clock carries over to the next planner call."""
    replans: int = 0
    """Planner calls so far."""
    skills: int = 0
    """Lines carried out so far."""
    since_replan: int = 0
    """Lines carried out since the last replan."""
    parse_errors: int = 0
    """Answers so far that could not be read."""
    observe_s: float = 0.0
    """Seconds in which the backend took in the history since the last planner call."""
    reward: float = 0.0
    """Sum of the rewards so far."""
    end: End | None = None
    """Why the episode ended; ``None`` while it goes on."""

    def __post_init__(self) -> None:
        self.answers: AnswerThread | None = None
        if self.config.start_early and not isinstance(self.backend, WorldBackend):
            self.answers = AnswerThread(self.backend)
        self.world = make_world(self.job, render=self.frames is not None)
        with ExitStack() as on_error:
            on_error.callback(self.world.close)
            self.progress = self.planned = self.world.reset(self.job.seed)
            self.system = "\n\n".join(text for text in (self.world.system, self.job.guide) if text)
            self.recorder, self.pictures = Recorder(self.job, self.sink, self.config.start_early), Pictures(self.world, self.frames)
            self._show()
            self._append("task", self.progress.task)
            briefing = briefing_of(self.world)
            if briefing is not None:
                self._append("briefing", briefing)
            on_error.pop_all()

    # ---- planning --------------------------------------------------------------------------------------------------------------

    def replan(self, reason: ReplanReason) -> None:
        """Observe, ask the backend, read its plan. Where the plan cannot be read, ask once more."""
        self.since_replan = 0
        self.started, self.goal_interrupted, self.plan.unread = True, False, False
        rest = tuple(call.text for call, _ in self.plan.rest)
        request = Request(reason, time.perf_counter(), rest, self.plan.draft)
        self._observe()
        try:
            self.plan.follow(self._ask(request))
        except PlanParseError as error:
            self._ask_again(error, replace(request, reason="parse_error", waited_s=time.perf_counter() - request.begin))
        self.plan.broken = ()
        self.pictures.tell(self._moment(""))

    def _ask_again(self, error: PlanParseError, request: Request) -> None:
        """Ask once more, if policy and limit of replans allow it. Where no plan can be read, one environment step passes."""
        if self.end is not None:  # the episode ended while the planner thought
            self.plan.follow(())
            return
        try:
            if self.replans >= self.config.max_replans or not self.config.policy.on_parse_error:
                raise error
            self._append("feedback", f"That plan could not be read: {error}.")
            self.plan.follow(self._ask(replace(request, begin=time.perf_counter())))
        except PlanParseError as last:
            self.plan.follow(())
            self.failed = True
            self._tell_outcome("plan", failed(last.reason).text)
            if self.end is None:
                self._take(self.world.idle())

    def _observe(self) -> None:
        """Describe the world, and say which plans were tried in this state of it before."""
        self.repeats.note(self.asked_in, "\n".join(self.plan.carried))
        observation = self.world.describe(self.outcomes)
        self._append("observation", observation)
        self.asked_in = state_of(self.world, observation)
        advice = self.repeats.advice(self.asked_in)
        if advice is not None:
            self._append("feedback", advice)
        self.outcomes, self.plan.carried, self.failed, self.planned = [], [], False, self.progress

    def _tell_outcome(self, line: str, outcome: str) -> None:
        """Tell the planner how a line ended: at once where plans cover the whole task, else with the next observation."""
        if self.job.horizon == "task":
            self._append("outcome", note_of(self.world, line, outcome))
        else:
            self.outcomes.append((line, outcome))

    def _ask(self, request: Request) -> list[Step]:
        prompt, entries = build_prompt(self.history, self.system), len(self.history.entries)
        prompt = replace(prompt, draft=request.draft)
        avoid = self.repeats.forbidden(self.asked_in)
        reader = None if self.answers is None or request.reason == "parse_error" else reader_of(self.world)
        asked, at_step = time.perf_counter(), self.env_steps
        grammar = None if format_of(self.backend) == "free" else grammar_of(self.world)
        answer = self._answer(prompt, replace(self.config.sampling, avoid=avoid, grammar=grammar), reader)
        generation, reading = answer.generation, time.perf_counter()
        calls, error = self._read(generation, self.world.parse if reader is None else reader.parse)
        plan = None if error is not None else tuple(call.text for call in calls)
        own_s = asked - request.begin + time.perf_counter() - reading
        thought = self._let_time_pass(generation, own_s + answer.backend_s)
        reply = Reply(generation, entries, len(avoid), answer.backend_s, own_s, self.observe_s, plan, error, answer.ahead)
        self.observe_s = 0.0
        self.recorder.call(self.replans, at_step, request, reply, thought)
        self.replans += 1
        steps = as_written(without_reasoning(generation.complete_text), calls)
        if answer.ahead is not None:
            return self._after(answer.ahead, steps, error)
        if error is not None:
            raise error
        return steps

    def _answer(self, prompt: Prompt, sampling: Sampling, reader: Reader | None) -> Answer:
        """Ask the backend. With a reader, carry out the first line of its plan as soon as it is certain."""
        if self.answers is not None and reader is not None:
            return self.answers.answer(prompt, sampling, reader, self._carry_out_ahead)
        begin = time.perf_counter()
        generation = self._generate(prompt, sampling)
        return Answer(generation, time.perf_counter() - begin)

    def _after(self, ahead: Ahead, steps: list[Step], error: PlanParseError | None) -> list[Step]:
        """Return the plan whose first line has been carried out. It stands, whatever the answer turns out to be."""
        self.plan.ahead = ahead.done
        if error is not None:
            self.plan.unread = True
            if self.end is None:
                self._append("feedback", f"That plan could not be read: {error}. Its first line had been carried out by then.")
        same = bool(steps) and steps[0][0].text == ahead.call.text
        return steps if same else [(ahead.call, ahead.call.text), *steps]

    def _read(self, generation: Generation, parse: Callable[[str], Sequence[Call]]) -> tuple[list[Call], PlanParseError | None]:
        """Read the complete lines of an answer, and put it into the history without its reasoning."""
        calls: list[Call] = []
        error: PlanParseError | None = None
        try:
            calls = list(parse(generation.complete_text))
        except PlanParseError as unread:
            error = unread
            self.parse_errors += 1
            self.repeats.note(self.asked_in, "\n".join(generation.complete_text.splitlines()[: error.line]))
        if error is None or self.config.quote_unread:
            said = without_reasoning(generation.text)
            self._append("plan", said if said.strip() else "(empty)")
        cut = cut_note(generation)
        if cut is not None:
            self._append("feedback", f"{cut.capitalize()}.")
        return calls, error

    def _let_time_pass(self, generation: Generation, replan_s: float) -> Thought:
        """Let the world make the steps that one planner call costs, or fewer if the episode ends.

        A backend that plans from the world, such as the expert, thinks for 0 seconds.
        """
        clock = self.config.clock
        if clock is None:
            return Thought()
        seconds = 0.0 if isinstance(self.backend, WorldBackend) else clock.count(generation, replan_s)
        due, self.clock_rest = clock.steps(seconds, self.clock_rest)
        before, self.caption = self.env_steps, "thinking"
        while self.end is None and self.env_steps - before < due:
            self._take(self.world.idle())
        self.thinking_steps += self.env_steps - before
        return Thought(seconds, self.env_steps - before)

    def _generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        if isinstance(self.backend, WorldBackend):
            return self.backend.plan(self.world, prompt, sampling)
        return self.backend.generate(prompt, sampling)

    # ---- acting ----------------------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Carry out the next line of the plan, unless that is done, and tell how it ended."""
        step = self.plan.steps.pop(0)
        call, _ = step
        done = self.plan.ahead or self._carry_out(call)
        self.plan.ahead, outcome = None, done.outcome
        self._tell_outcome(call.text, outcome.text)
        self._let_observe()
        self._follow_up(step, outcome)
        self.skills += 1
        self.since_replan += 1
        spent = Spent(done.env_steps, done.reward, self.world.place, self.disturbances)
        self.recorder.step(self.replans - 1, call.text, outcome, spent, self.progress)
        self.disturbances = []
        if outcome.gave_up and self.end is None:
            self.end = "gave_up"

    def _let_observe(self) -> None:
        """Let a backend that can take in what is new in the history. In plans for the whole task it grows while the agent acts."""
        if self.end is not None or self.job.horizon != "task" or not self.config.observe:
            return
        if isinstance(self.backend, ObservingBackend):
            begin = time.perf_counter()
            self.backend.observe(build_prompt(self.history, self.system))
            self.observe_s += time.perf_counter() - begin

    def _follow_up(self, step: Step, outcome: Outcome) -> None:
        """Note how a line ended. A changed goal is no failure; where it is no reason to replan, the interrupted line goes on."""
        self.failed, self.goal_interrupted = False, self.goal_interrupted or outcome.goal_changed
        if outcome.goal_changed and not self.config.policy.on_goal_change:
            self.plan.steps.insert(0, step)
            return
        self.plan.finish(step, outcome)
        self.failed = not (outcome.succeeded or outcome.goal_changed)

    def _carry_out(self, call: Call) -> Done:
        """Carry out a line. One that needs no environment step still takes one, so every plan costs time."""
        self.caption = call.text
        steps, reward = self.env_steps, self.reward
        outcome = self._run(call)
        if self.env_steps == steps and self.end is None:
            self._take(self.world.idle())
        return Done(outcome, self.env_steps - steps, self.reward - reward)

    def _carry_out_ahead(self, call: Call) -> Done:
        """Carry out the first line of a plan that is not complete; what was left of the plan before it is over."""
        self.plan.follow(())
        return self._carry_out(call)

    def _run(self, call: Call) -> Outcome:
        """Step the world until the line of the plan or the episode ends."""
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
        """Note the result of one environment step."""
        self.env_steps += 1
        self.reward += tick.reward
        self.progress = tick.progress
        self.disturbances += tick.disturbances
        self._show(tick.disturbances)
        if tick.success:
            self.end = "success"
        elif tick.terminated:
            self.end = "terminated"
        elif tick.truncated:
            self.end = "step_limit"

    def reason(self) -> ReplanReason | None:
        """Return why to replan now; ``None`` to go on with the plan."""
        policy = self.config.policy
        return "parse_error" if self.plan.unread and policy.on_parse_error else policy.reason(self.state())

    def state(self) -> LoopState:
        """Return what the replan policy looks at."""
        replaced = bool(self.plan) and self.progress.replaces(self.planned, self.job.horizon)
        reached = self.progress.done > self.planned.done and self.progress.goal != self.planned.goal
        return LoopState(
            started=self.started,
            skills_left=len(self.plan),
            skills_since_replan=self.since_replan,
            last_failed=self.failed,
            surprised=bool(self.plan) and self.world.touches(self.plan.calls),
            goal_changed=self.goal_interrupted or replaced,
            subgoal_reached=bool(self.plan) and reached and self.job.horizon == "subgoal",
        )

    def close(self) -> None:
        """End the thread of the planner, and close the world."""
        try:
            if self.answers is not None:
                self.answers.close()
        finally:
            self.world.close()

    # ---- records ---------------------------------------------------------------------------------------------------------------

    def record(self, end: End, wall_s: float) -> EpisodeRecord:
        """Sum up the episode, which ended for the reason ``end`` after ``wall_s`` seconds."""
        return EpisodeRecord(
            **self.recorder.key,
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
            thinking_steps=self.thinking_steps,
            system=self.system,
        )

    def _append(self, kind: EntryKind, text: str) -> None:
        self.history = self.history.append(kind, text)
        self.recorder.entry(len(self.history.entries) - 1, self.history.entries[-1])

    def _show(self, events: tuple[str, ...] = ()) -> None:
        if self.frames is not None:
            self.pictures.show(self.caption, self._moment(self.caption, events))

    def _moment(self, line: str, events: tuple[str, ...] = ()) -> Moment:
        rest = tuple(call.text for call in self.plan.calls)
        return self.pictures.moment(self.env_steps, self.progress, line, rest, events)


_OUTCOME_AT_END: dict[End | None, Outcome] = {
    "success": Outcome(True),
    "terminated": Outcome(False, "interrupted, the world ended the episode"),
    "step_limit": Outcome(False, "interrupted, out of time"),
}
"""Outcome of a line that the end of the episode interrupted, by the reason of the end."""
