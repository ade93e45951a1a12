"""The clock: environment steps that pass while the planner thinks."""

import math
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.clock import Clock
from envs import DisturbanceRates
from planner import ReplanPolicy

QUIET = "ERecap/HouseholdQuiet-v0"
NOISY = DisturbanceRates(door_closes=0, door_locks=0, object_moves=0, item_knocked=0, skill_fails=0, goal_changes=1.0)


def one_second(generation, replan_s):
    return 1.0


def by_length(generation, replan_s):
    return 0.1 * len(generation.text)


# ---- arithmetic ----------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 64).map(lambda n: n / 8), st.lists(st.integers(0, 400).map(lambda n: n / 16), max_size=30))
def test_no_part_of_a_step_is_lost(rate, calls):
    clock, carried, passed = Clock(rate, one_second), 0.0, 0
    for seconds in calls:
        steps, carried = clock.steps(seconds, carried)
        passed += steps
        assert 0 <= carried < 1
    due = sum((Fraction(rate) * Fraction(seconds) for seconds in calls), Fraction(0))
    assert (passed, Fraction(carried)) == (math.floor(due), due - math.floor(due))


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_is_positive_and_finite(rate):
    with pytest.raises(ValueError, match="must be a positive finite number"):
        Clock(rate, one_second)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_source_counts_no_impossible_seconds(players, seconds):
    with pytest.raises(ValueError, match="it must return a finite number from 0 on"):
        players.play(QUIET, players.Script(), clock=Clock(1.0, lambda generation, replan_s: seconds))


def test_a_clock_can_be_sent_to_a_worker():
    clock = Clock(2.0, by_length)
    assert pickle.loads(pickle.dumps(clock)) == clock


# ---- in the loop ---------------------------------------------------------------------------------------------------------------


def test_a_call_records_what_passed_while_it_thought(players):
    run = players.play(QUIET, players.Script("explore", "goto kitchen", "drop"), max_replans=3, clock=Clock(2.5, one_second))
    assert [call.clock_s for call in run.calls] == [1.0] * 3
    assert [call.clock_steps for call in run.calls] == [2, 3, 2]
    assert run.end.thinking_steps == 7
    assert run.end.env_steps == 7 + sum(step.env_steps for step in run.steps)
    expected = 0
    for call in run.calls:
        assert call.env_step == expected
        expected += call.clock_steps + sum(step.env_steps for step in run.steps if step.replan == call.replan)


def test_a_world_without_a_clock_waits(players):
    run = players.play(QUIET, players.Script(), max_replans=2)
    assert {(call.clock_s, call.clock_steps) for call in run.calls} == {(None, 0)}
    assert run.end.thinking_steps == 0


def test_the_source_gets_the_answer_and_the_measured_seconds(players):
    seen = []

    def source(generation, replan_s):
        seen.append((generation.text, replan_s))
        return 0.0

    run = players.play(QUIET, players.Script("drop", "fly"), max_replans=2, clock=Clock(1.0, source))
    assert [text for text, _ in seen] == [call.generation.text for call in run.calls]
    assert [seconds for _, seconds in seen] == pytest.approx([call.backend_s + call.overhead_s for call in run.calls])


def test_the_expert_thinks_for_no_time(players):
    quiet, clocked = (players.play("ERecap/HouseholdSmall-v0", seed=3, clock=clock) for clock in (None, Clock(100.0, one_second)))
    assert {(call.clock_s, call.clock_steps) for call in clocked.calls} == {(0.0, 0)}
    assert (clocked.end.env_steps, clocked.end.thinking_steps) == (quiet.end.env_steps, 0)


def test_an_episode_may_end_while_the_planner_thinks(players):
    run = players.play(QUIET, players.Script("explore\nexplore"), max_steps=5, clock=Clock(10.0, one_second))
    assert (run.end.end, run.end.env_steps, run.end.thinking_steps, run.end.skills) == ("step_limit", 5, 5, 0)
    assert (run.calls[0].clock_s, run.calls[0].clock_steps) == (1.0, 5)
    assert run.steps == []


def test_an_unreadable_answer_takes_its_time_too(players):
    run = players.play(QUIET, players.Script("fly", "jump"), max_replans=2, clock=Clock(3.0, one_second))
    assert [(call.reason, call.clock_steps) for call in run.calls] == [("start", 3), ("parse_error", 3)]
    assert run.end.env_steps == 7, "and one step for the plan that could not be read"


@pytest.mark.parametrize("limit", [2, 3, 5, 6])
def test_an_unreadable_answer_may_be_the_last(players, limit):
    run = players.play(QUIET, players.Script("fly", "jump"), max_steps=limit, clock=Clock(3.0, one_second))
    assert (run.end.end, run.end.env_steps, run.end.skills) == ("step_limit", limit, 0)
    assert len(run.calls) == (1 if limit <= 3 else 2)


def test_what_happened_meanwhile_is_told_with_the_next_line(players, household):
    policy = ReplanPolicy(on_goal_change=False)
    run = players.play(
        household(disturbances=NOISY, max_goal_changes=1),
        players.Script("explore"),
        max_replans=1,
        policy=policy,
        clock=Clock(2.0, one_second),
    )
    assert [step.disturbances for step in run.steps] == [["goal changed"]]


def test_the_policy_is_asked_again_before_the_first_line(players, household):
    run = players.play(
        household(disturbances=NOISY, max_goal_changes=1),
        players.Script("explore", "drop"),
        max_replans=2,
        clock=Clock(1.0, one_second),
    )
    assert [call.reason for call in run.calls] == ["start", "goal_changed"]
    assert [step.replan for step in run.steps] == [1], "nothing of the first plan is carried out"


def test_a_world_that_never_stands_still_ends_at_the_limits(players, household):
    run = players.play(
        household(disturbances=NOISY, max_goal_changes=1000), players.Script(), max_replans=4, clock=Clock(1.0, one_second)
    )
    assert (run.end.end, run.end.replans, run.end.skills) == ("replan_limit", 4, 0)


def test_latency_becomes_success(players):
    expert = players.play(QUIET, seed=2)
    plans, limit = [call.generation.text for call in expert.calls], expert.end.env_steps + len(expert.calls)
    ends = {}
    for rate in (0.5, 1.0, 1.5, 4.0):
        run = players.play(QUIET, players.Script(*plans), seed=2, max_steps=limit, clock=Clock(rate, one_second))
        ends[rate] = run.end.end
    assert ends == {0.5: "success", 1.0: "success", 1.5: "step_limit", 4.0: "step_limit"}
