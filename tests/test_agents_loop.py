"""The loop: when it replans, what it feeds back, how an episode ends, and what it records."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.expert_backend import ExpertBackend
from agents.job import EpisodeJob
from agents.loop import AgentConfig, Episode, WorldBackend, run_episode
from agents.records import RECORD, EpisodeRecord, StepRecord
from agents.repeats import Repeats
from envs import DisturbanceRates, make_env
from planner import Entry, Generation, History, PromptTooLongError, ReplanPolicy, build_prompt

QUIET = "ERecap/HouseholdQuiet-v0"


def rates(**changes):
    return DisturbanceRates.none().model_copy(update=changes)


def reasons(run):
    return [call.reason for call in run.calls]


# ---- records -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["ERecap/Household-v0", "BossLevel"])
def test_records_are_whole_and_come_back_from_json(players, env_id):
    run = players.play(env_id, players.Wanderer(2), seed=2, max_steps=200, max_replans=30)
    assert [RECORD.validate_json(record.model_dump_json()) for record in run.records] == run.records
    assert run.records[-1] is run.end
    assert isinstance(run.end, EpisodeRecord)
    assert [record.index for record in run.transcript] == list(range(len(run.transcript)))
    assert [call.replan for call in run.calls] == list(range(run.end.replans))
    assert (run.end.skills, run.end.parse_errors) == (len(run.steps), sum(call.parse_error is not None for call in run.calls))
    assert run.end.reward == pytest.approx(sum(step.reward for step in run.steps))
    assert (run.end.backend, run.end.env_id, run.end.seed) == ("test", env_id, 2)


def test_times_and_sizes_are_those_of_the_backend(players):
    made = Generation(
        "explore", prompt_tokens=10, new_tokens=3, stage_tokens=(5,), layer_tokens=(10, 5), reused_tokens=4, ttft_s=1.0,
        first_skill_s=1.5, decode_s=2.0, total_s=3.0, tokenize_s=0.25, kv_bytes=7, peak_memory_bytes=8,
        schedule="1@0.5", budget_s=0.3, predicted_s=0.4, budget_met=False,
    )  # fmt: skip

    class Backend:
        def generate(self, prompt, sampling, on_line=None):
            return made

    call = players.play(QUIET, Backend(), max_replans=1).calls[0]
    assert call.generation == made
    assert (made.tpot_s, made.dropped_tokens, made.kept_share) == (1.0, 5, 0.75)
    assert RECORD.validate_json(call.model_dump_json()) == call
    assert call.replan_s >= call.backend_s >= 0
    assert call.overhead_s == pytest.approx(call.replan_s - call.backend_s + 0.25)


def test_the_transcript_gives_back_every_prompt(players):
    backend = players.Script("explore", "fly", "goto kitchen")
    run = players.play(QUIET, backend, max_replans=6)
    assert len(backend.prompts) == len(run.calls)
    for prompt, call in zip(backend.prompts, run.calls, strict=True):
        entries = tuple(Entry(r.entry, r.text) for r in run.transcript[: call.history_entries])
        assert prompt == replace(build_prompt(History(entries)), draft=call.draft)


def test_each_prompt_begins_with_the_one_before_it(players):
    backend = players.Script("explore", "fly", "fly", "drop")
    players.play("ERecap/Household-v0", backend, max_replans=8)
    for before, after in pairwise(backend.prompts):
        assert after.messages()[: len(before.messages())] == before.messages()
        assert len(after.messages()) > len(before.messages())


def test_an_episode_is_the_same_every_time(players):
    def play():
        run = players.play("ERecap/Household-v0", players.Wanderer(1), seed=4, max_steps=150, max_replans=20)
        return run.transcript, run.steps, run.end.model_copy(update={"wall_s": 0})

    assert play() == play()


# ---- when to replan ------------------------------------------------------------------------------------------------------------


def test_start_plan_end_and_failure(players):
    run = players.play(QUIET, players.Script("explore\nexplore", "drop\nexplore"), max_replans=3)
    assert reasons(run) == ["start", "plan_end", "failure"]
    assert [(step.replan, step.skill) for step in run.steps] == [(0, "explore"), (0, "explore"), (1, "drop"), (2, "explore")]
    assert "drop: failed, holding nothing." in run.observations[-1]


def test_a_fixed_interval(players):
    policy = ReplanPolicy(every=2)
    run = players.play(QUIET, players.Script("explore\nexplore\nexplore\nexplore"), max_replans=2, policy=policy)
    assert reasons(run) == ["start", "interval"]
    assert [step.replan for step in run.steps] == [0, 0, 1]


def test_failures_can_be_left_to_the_end_of_the_plan(players):
    run = players.play(QUIET, players.Script("drop\ndrop"), max_replans=2, policy=ReplanPolicy(on_failure=False))
    assert reasons(run) == ["start", "plan_end"]
    assert run.observations[1].startswith("drop: failed, holding nothing.\ndrop: failed, holding nothing.\n")


def test_a_reached_subgoal_ends_its_plan(players, household):
    env_id = household(rows=1, cols=2, disturbances=rates(), tour=2, kinds=("bring",))
    run = players.play(env_id, players.Script(*["explore\ngoto hall\ndrop"] * 9), max_replans=4)
    changed = next(i for i, call in enumerate(run.calls) if call.reason == "subgoal_reached")
    before, after = run.observations[changed - 1], run.observations[changed]
    assert before.partition("Goal: ")[2] != after.partition("Goal: ")[2]


def test_a_surprise_that_matters_to_the_plan(players):
    job = EpisodeJob("test", QUIET, 0)
    episode = Episode(job, players.Script("explore\nexplore\ngoto kitchen"), AgentConfig(), lambda record: None)
    episode.replan("start")
    assert not episode.state().surprised
    episode.world.belief.surprises.add("imaginary ball")
    assert not episode.state().surprised
    episode.world.belief.surprises.add("kitchen")
    assert episode.state().surprised
    episode.replan("surprise")
    assert not episode.state().surprised
    episode.world.belief.surprises.add(episode.planned.goal.split(" ", 1)[1])
    assert episode.state().surprised
    episode.plan.follow(())
    assert not episode.state().surprised, "without a plan there is nothing to contradict"


def test_surprises_happen_in_a_house_that_does_not_stand_still(players, household):
    env_id = household(disturbances=rates(object_moves=0.2, door_locks=0.05))
    runs = [players.play(env_id, seed=seed) for seed in range(6)]
    assert any("surprise" in reasons(run) for run in runs)


# ---- interruptions -------------------------------------------------------------------------------------------------------------


def test_a_goal_that_changes_interrupts_the_skill(players, household):
    env_id = household(disturbances=rates(goal_changes=1.0))
    run = players.play(env_id, players.Script("explore\nexplore"), max_replans=2)
    step = run.steps[0]
    assert (step.outcome, step.succeeded, step.env_steps) == ("interrupted, the goal changed", False, 1)
    assert step.disturbances == ["goal changed"]
    assert reasons(run)[1] == "goal_changed"
    assert run.observations[0].partition("Goal: ")[2] != run.observations[1].partition("Goal: ")[2]


@pytest.mark.parametrize(
    ("plans", "config", "expected"),
    [
        (["fly", "jump", "explore"], {}, ["start", "parse_error", "failure"]),
        (["fly", "jump", "explore"], {"policy": ReplanPolicy(on_failure=False)}, ["start", "parse_error", "plan_end"]),
        (["drop", "explore"], {}, ["start", "failure"]),
        (["drop\ngoto kitchen", "explore"], {"policy": ReplanPolicy(on_failure=False)}, ["start", "goal_changed"]),
    ],
)
def test_a_goal_that_changes_while_the_agent_stands_idle_interrupts_no_later_skill(players, household, plans, config, expected):
    env_id = household(disturbances=rates(goal_changes=1.0), max_goal_changes=1)
    run = players.play(env_id, players.Script(*plans), max_replans=len(expected), **config)
    assert reasons(run) == expected
    assert (run.steps[-1].skill, run.steps[-1].outcome, run.steps[-1].succeeded) == ("explore", "ok", True)
    assert [event for step in run.steps for event in step.disturbances] == ["goal changed"]


class Announcer(gym.Wrapper):
    """Says "goal changed" in each step in which the open subgoal stays as it is: a later one may have changed."""

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        self.goal = info["subgoal"]
        return observation, info

    def step(self, action):
        *result, info = super().step(action)
        before, self.goal = self.goal, info["subgoal"]
        return (*result, {**info, "disturbances": ["goal changed"] if before == self.goal else []})


def test_an_event_that_left_the_open_subgoal_alone_does_not_interrupt_the_skill_that_reaches_it(players, monkeypatch):
    monkeypatch.setattr("agents.families.make_env", lambda *args, **kwargs: Announcer(make_env(QUIET)))
    run = players.play("Announced", seed=3)
    assert run.end.success
    assert {step.outcome for step in run.steps} == {"ok"}


def test_a_thing_that_is_knocked_away_interrupts_the_skill(players, household):
    env_id = household(disturbances=rates(item_knocked=0.2))
    run = next(run for seed in range(9) if (run := players.play(env_id, seed=seed, max_replans=12)) and _interrupted(run))
    step = _interrupted(run)
    assert not step.succeeded
    assert any(event.endswith("knocked away") for event in step.disturbances)


def _interrupted(run):
    return next((step for step in run.steps if step.outcome == "interrupted, the held thing fell from the hand"), None)


def test_what_disturbed_is_recorded_once(players, household, monkeypatch):
    tape = players.Tape(make_env(household(disturbances=rates(object_moves=0.3))))
    monkeypatch.setattr("agents.families.make_env", lambda *args, **kwargs: tape)
    run = players.play("Taped", players.Script("explore", "fly", "fly"), seed=1, max_replans=15)
    events = [event for step in run.steps for event in step.disturbances]
    assert events
    assert events == [event for *_, info in tape.results for event in info["disturbances"]]


# ---- plans that lead nowhere ---------------------------------------------------------------------------------------------------


def test_a_planner_that_goes_round_in_circles_is_told(players):
    backend = players.Script(*["drop"] * 6)
    run = players.play(QUIET, backend, max_replans=8)
    said = [(r.index, r.text) for r in run.transcript if r.entry == "feedback"]
    told = "Nothing has changed since this was tried: drop ({})."
    assert [text for _, text in said] == [told.format(times) for times in ("once", *["twice"] * 5)]
    assert {(run.transcript[index - 1].entry, run.transcript[index + 1].entry) for index, _ in said} == {("observation", "plan")}
    assert [call.forbidden for call in run.calls] == [0, 0, 1, 1, 1, 1, 1, 0], "at last it explored"
    for shorter, longer in pairwise(backend.prompts):
        assert [s.text for s in longer.segments[: len(shorter.segments)]] == [s.text for s in shorter.segments]


def test_a_planner_that_gets_on_is_told_nothing(players):
    run = players.play(QUIET, seed=1)
    assert run.end.success
    assert not any(r.entry == "feedback" for r in run.transcript)
    assert not any(call.forbidden for call in run.calls)


class Stubborn:
    """Always gives the same answer; keeps what it was told to avoid."""

    def __init__(self, text):
        self.text, self.avoid = text, []

    def generate(self, prompt, sampling, on_line=None):
        self.avoid.append(sampling.avoid)
        return Generation(text=self.text)


@pytest.mark.parametrize("horizon", ["subgoal", "task"])
def test_the_third_time_the_lines_that_were_tried_are_forbidden(players, horizon):
    backend = Stubborn("drop\nexplore\nexplore")
    players.play(QUIET, backend, max_replans=4, horizon=horizon)
    assert backend.avoid == [(), (), ("drop",), ("drop",)], "the lines behind the failure were not tried"


def test_an_answer_that_cannot_be_read_is_forbidden_up_to_its_bad_line(players):
    backend = Stubborn("explore\nfly away\ndrop")
    players.play(QUIET, backend, max_replans=4)
    assert backend.avoid == [(), (), ("explore\nfly away",), ("explore\nfly away",)]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["drop", "explore", "drop\nexplore"])), max_size=12))
def test_plans_are_forbidden_only_in_the_state_in_which_they_were_tried_twice(tried):
    repeats = Repeats()
    for state, plan in tried:
        repeats.note(state, plan)
    for state in range(3):
        counts = Counter(plan for where, plan in tried if where == state)
        assert set(repeats.forbidden(state)) == {plan for plan, times in counts.items() if times >= 2}
        assert (repeats.advice(state) is None) == (not counts)


# ---- plans that cannot be read -------------------------------------------------------------------------------------------------


def test_a_plan_that_cannot_be_read_is_asked_for_once_more(players):
    backend = players.Script("explore\nfly away", "explore")
    run = players.play(QUIET, backend, max_replans=2)
    first, second = run.calls
    assert (first.reason, first.generation.text) == ("start", "explore\nfly away")
    assert first.parse_error.startswith("line 2 'fly away': unknown skill 'fly'")
    assert (second.reason, second.parse_error) == ("parse_error", None)
    assert [r.entry for r in run.transcript[:5]] == ["task", "observation", "plan", "feedback", "plan"]
    assert run.transcript[3].text == f"That plan could not be read: {first.parse_error}."
    assert [step.skill for step in run.steps] == ["explore"]
    assert run.end.parse_errors == 1


def test_two_that_cannot_be_read_cost_a_step_and_a_failure(players):
    run = players.play(QUIET, players.Script("fly", "jump", "explore"), max_replans=3)
    assert reasons(run) == ["start", "parse_error", "failure"]
    assert run.end.parse_errors == 2
    assert run.calls[2].env_step == 1
    assert "plan: failed, unknown skill 'jump'" in run.observations[1]
    assert [step.replan for step in run.steps] == [2]


def test_no_second_request_goes_beyond_the_limit_of_replans(players):
    run = players.play(QUIET, players.Script("fly", "explore"), max_replans=1)
    assert (run.end.replans, run.end.end, run.end.env_steps) == (1, "replan_limit", 1)
    assert [r.entry for r in run.transcript] == ["task", "observation", "plan"]


def test_a_line_that_was_cut_is_not_executed(players):
    class Cut(players.Script):
        def generate(self, prompt, sampling, on_line=None):
            return replace(super().generate(prompt, sampling, on_line), truncated=True)

    run = players.play(QUIET, Cut("explore\npickup red", "pickup red", "explore\ngo"), max_replans=2)
    assert [step.skill for step in run.steps] == ["explore"]
    assert run.calls[1].parse_error.startswith("line 1 '': there is no skill")


def test_the_wait_for_a_plan_that_could_not_be_read_counts(players):
    first, second = players.play(QUIET, players.Script("fly", "explore"), max_replans=2).calls
    assert second.replan_s > first.replan_s + second.backend_s
    assert second.overhead_s < second.replan_s


def test_an_empty_answer_is_one_that_cannot_be_read(players):
    run = players.play(QUIET, players.Script("", "explore"), max_replans=2)
    assert run.transcript[2].text == "(empty)"
    assert run.calls[0].parse_error.endswith("write one skill per line, such as 'goto kitchen'")


def test_a_planner_that_never_makes_sense_runs_into_a_limit(players):
    run = players.play(QUIET, players.Script(*["fly"] * 99), max_steps=5)
    assert (run.end.end, run.end.env_steps, run.end.parse_errors, run.end.skills) == ("step_limit", 5, 10, 0)


# ---- ends ----------------------------------------------------------------------------------------------------------------------


def test_success_ends_the_episode(players):
    run = players.play(QUIET, seed=0)
    assert (run.end.end, run.end.success, run.end.reward) == ("success", True, pytest.approx(1.0))
    assert run.end.subgoals_done == run.end.subgoals_total == 3
    assert run.steps[-1].succeeded


def test_done_gives_up(players):
    run = players.play(QUIET, players.Script("done\nexplore"))
    assert (run.end.end, run.end.success, run.end.env_steps) == ("gave_up", False, 1)
    assert [(step.skill, step.outcome) for step in run.steps] == [("done", "ok")]


def test_the_step_limit_ends_the_episode_in_the_middle_of_a_skill(players):
    run = players.play(QUIET, players.Script(), max_steps=3)
    assert (run.end.end, run.end.env_steps, run.end.max_steps) == ("step_limit", 3, 3)
    assert run.steps[-1].outcome == "interrupted, out of time"


def test_the_replan_limit_ends_the_episode(players):
    run = players.play(QUIET, players.Script(), max_replans=2)
    assert (run.end.end, run.end.replans) == ("replan_limit", 2)


def test_a_level_may_end_without_success(players, monkeypatch):
    tape = players.Tape(make_env("GoTo"))
    observation, info = tape.reset(seed=0)
    env = tape.player()
    env.step = lambda action: (observation, 0.0, True, False, info)
    monkeypatch.setattr("agents.families.make_env", lambda *args, **kwargs: env)
    run = players.play("GoTo", players.Script())
    assert (run.end.end, run.end.success, run.end.env_steps) == ("terminated", False, 1)
    assert run.steps[-1].outcome == "interrupted, the world ended the episode"


def test_a_skill_that_needs_no_step_takes_one(players):
    run = players.play(QUIET, players.Script(*["drop"] * 9), max_steps=4)
    assert [step.env_steps for step in run.steps] == [1, 1, 1, 1]
    assert run.end.end == "step_limit"


def test_an_unknown_environment_is_an_error(players):
    with pytest.raises(ValueError, match="environment 'Nowhere' is unknown"):
        players.play("Nowhere")


def test_a_history_that_outgrows_the_backend_ends_the_episode(players):
    class Small(players.Script):
        def generate(self, prompt, sampling, on_line=None):
            if len(prompt.segments) > 5:
                raise PromptTooLongError("too long")
            return super().generate(prompt, sampling, on_line)

    run = players.play(QUIET, Small())
    assert (run.end.end, run.end.success, run.end.replans) == ("context_limit", False, 2)


def test_what_a_backend_raises_is_raised(players):
    class Broken:
        def generate(self, prompt, sampling, on_line=None):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        players.play(QUIET, Broken())


# ---- what it is given ----------------------------------------------------------------------------------------------------------


def test_pictures_come_with_the_current_skill():
    frames = []
    job = EpisodeJob("expert", QUIET, 0)
    records = []
    end = run_episode(job, ExpertBackend(), AgentConfig(), records.append, lambda frame, caption: frames.append((frame, caption)))
    assert len(frames) == end.env_steps + 1
    assert all(frame.dtype == np.uint8 and frame.shape == frames[0][0].shape for frame, _ in frames)
    captions = [caption for step in records if isinstance(step, StepRecord) for caption in [step.skill] * step.env_steps]
    assert [caption for _, caption in frames] == ["start", *captions]


def test_only_a_backend_that_plans_from_it_is_shown_the_world(players):
    assert isinstance(ExpertBackend(), WorldBackend)
    assert not isinstance(players.Script(), WorldBackend)


@pytest.mark.parametrize("verbosity", ["terse", "verbose"])
def test_verbosity_is_the_jobs(players, verbosity):
    run = players.play(QUIET, players.Script(), verbosity=verbosity, max_replans=2)
    assert ("You stand in column" in run.observations[1]) == (verbosity == "verbose")
