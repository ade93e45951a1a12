"""Figures about replanning, from records."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import AgentConfig, EpisodeJob, run_episode
from agents.episode_log import EpisodeLog
from agents.expert_backend import ExpertBackend
from agents.records import EpisodeRecord, PlannerCall, StepRecord
from benchmarks.comparison.edits import common_length, edit_distance, reused_share
from benchmarks.comparison.recoveries import recovery_after, summarize_recoveries
from benchmarks.comparison.replans import decode_share, summarize_replans
from benchmarks.runs.records import EpisodeRecords, RunRecords
from planner import Generation

KEY = {"backend": "baseline", "env_id": "E-v0", "seed": 1}
LINES = st.lists(st.sampled_from("abcd"), max_size=8)


def call(replan, reason, plan=(), rest=(), env_step=0, new_tokens=4, prompt_tokens=100, error=None, **fields):
    made = Generation(
        text="\n".join(plan), prompt_tokens=prompt_tokens, new_tokens=new_tokens, ttft_s=0.5, decode_s=0.25, tokenize_s=0.1
    )
    return PlannerCall(
        **KEY,
        replan=replan,
        env_step=env_step,
        reason=reason,
        history_entries=2,
        generation=made,
        backend_s=0.75,
        overhead_s=0.35,
        replan_s=1.0,
        plan=plan or None,
        rest=rest,
        parse_error=error,
        **fields,
    )


def step(replan, done, env_steps=3):
    return StepRecord(
        **KEY,
        replan=replan,
        skill="explore",
        succeeded=True,
        outcome="ok",
        env_steps=env_steps,
        reward=0.0,
        place=None,
        disturbances=[],
        subgoals_done=done,
        subgoals_total=9,
    )


def episode(calls, steps=(), success=False):
    end = EpisodeRecord(
        **KEY,
        success=success,
        subgoals_done=0,
        subgoals_total=9,
        env_steps=50,
        max_steps=100,
        replans=len(calls),
        skills=len(steps),
        parse_errors=0,
        reward=0.0,
        end="success" if success else "step_limit",
        wall_s=1.0,
    )
    return EpisodeRecords(end, tuple(calls), tuple(steps))


def slow_distance(old, new):
    @cache
    def down(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(down(i - 1, j) + 1, down(i, j - 1) + 1, down(i - 1, j - 1) + (old[i - 1] != new[j - 1]))

    return down(len(old), len(new))


def slow_common(old, new):
    @cache
    def down(i, j):
        if i == 0 or j == 0:
            return 0
        if old[i - 1] == new[j - 1]:
            return down(i - 1, j - 1) + 1
        return max(down(i - 1, j), down(i, j - 1))

    return down(len(old), len(new))


@given(LINES, LINES)
def test_distance_and_common_length_are_what_their_definitions_say(old, new):
    assert edit_distance(old, new) == slow_distance(tuple(old), tuple(new)) == edit_distance(new, old)
    assert common_length(old, new) == slow_common(tuple(old), tuple(new)) == common_length(new, old)


@given(LINES, LINES, LINES)
def test_the_edit_distance_is_a_metric(a, b, c):
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= len(a) + len(b) - 2 * common_length(a, b)


@given(LINES.filter(bool), LINES)
def test_a_plan_that_stands_is_reused_whole_also_with_lines_cut_from_it(plan, others):
    assert reused_share(plan, plan) == reused_share([*others, *plan], plan) == 1
    assert 0 <= reused_share(others, plan) <= 1
    assert reused_share([], plan) == 0


def test_reasons_are_shares_of_all_calls_and_forced_ones_of_those_after_the_start():
    first = episode([call(0, "start", ("a",)), call(1, "failure", ("b",)), call(2, "plan_end", ("c",))])
    second = episode([call(0, "start", error="bad"), call(1, "parse_error", ("a",)), call(2, "goal_changed", ("a",), forbidden=1)])
    figures = summarize_replans([first, second])
    assert figures.reasons == {
        "start": 2 / 6,
        "failure": 1 / 6,
        "surprise": 0,
        "goal_changed": 1 / 6,
        "subgoal_reached": 0,
        "plan_end": 1 / 6,
        "interval": 0,
        "parse_error": 1 / 6,
    }
    assert figures.forced == 2 / 4
    assert (figures.repeated, figures.forbidden) == (1 / 3, 1)  # b after a, c after b, a after a
    assert sum(figures.reasons.values()) == pytest.approx(1)


def test_lengths_of_plans_and_last_prompts():
    calls = [call(n, "failure", ("a",) * (n + 1), new_tokens=10 * (n + 1), prompt_tokens=1000 * (n + 1)) for n in range(11)]
    figures = summarize_replans([episode(calls), episode(calls[:3])])
    assert (figures.plan_lines.max, figures.plan_tokens.max) == (11, 110)
    assert figures.plan_lines.p50 * 10 == figures.plan_tokens.p50 == 45
    assert (figures.last_prompt_p50, figures.last_prompt_long) == (7000, 0.5)
    expert = summarize_replans([episode([call(0, "start", ("a",), new_tokens=0, prompt_tokens=0)])])
    assert (expert.plan_tokens.p50, expert.last_prompt_p50, expert.last_prompt_long, expert.decode_share) == (None,) * 4
    assert (expert.forced, expert.repeated, expert.reuse, expert.recovery) == (None,) * 4


def test_reuse_counts_lines_and_words_of_replans_that_had_a_rest():
    kept = call(1, "failure", ("goto red ball", "done"), rest=("goto red ball", "done"))
    changed = call(2, "failure", ("goto blue ball", "done"), rest=("goto red ball", "pickup red ball", "done"))
    reuse = summarize_replans(
        [episode([call(0, "start", ("a",)), kept, changed, call(3, "failure", error="bad", rest=("a",))])]
    ).reuse
    assert (reuse.replans, reuse.distance_p50, reuse.distance_mean) == (2, 1, 1)
    assert (reuse.lines_mean, reuse.words_mean) == ((1 + 1 / 2) / 2, (1 + 3 / 4) / 2)


def test_decoding_is_a_share_of_the_replans_own_time():
    assert decode_share(call(0, "start", ("a",))) == 0.25 / (0.75 + 0.35 - 0.1)
    assert decode_share(call(0, "start", ("a",), new_tokens=0)) is None


def test_a_recovery_is_the_next_subgoal_with_its_plans_and_steps():
    calls = [
        call(0, "start"),
        call(1, "failure", env_step=3, clock_steps=2),
        call(2, "surprise", env_step=8),
        call(3, "plan_end", env_step=14),
    ]
    played = episode(calls, [step(0, 1), step(1, 1), step(2, 1, 4), step(2, 2, 1), step(3, 2)])
    assert recovery_after(calls[1], played) == (2, 10)  # step 13 = 8 + 4 + 1
    assert recovery_after(calls[2], played) == (1, 5)
    assert recovery_after(calls[3], played) is None
    assert summarize_recoveries([played]).model_dump() == {"replans": 2, "recovered": 1.0, "replans_p50": 1.5, "env_steps_p50": 7.5}


def test_steps_that_pass_while_the_planner_thinks_count():
    calls = [call(0, "start"), call(1, "failure", env_step=3, clock_steps=2)]
    assert recovery_after(calls[1], episode(calls, [step(0, 0), step(1, 1)])) == (1, 5)


def test_success_is_a_recovery_also_without_subgoals_and_other_ends_are_none():
    calls = [call(0, "start"), call(1, "failure", env_step=3)]
    steps = [step(0, 0), step(1, 0), step(1, 0)]
    assert recovery_after(calls[1], episode(calls, steps, success=True)) == (1, 6)
    assert recovery_after(calls[1], episode(calls, steps)) is None
    lost = summarize_recoveries([episode(calls, steps)])
    assert (lost.recovered, lost.replans_p50, lost.env_steps_p50) == (0, None, None)
    assert summarize_recoveries([episode([call(0, "start"), call(1, "plan_end")])]) is None


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(0, 2), st.lists(st.booleans(), min_size=1, max_size=3)), min_size=1, max_size=5
    )
)
def test_recoveries_end_where_the_count_of_subgoals_rises(plans):
    """Each plan: steps per line, steps of thinking, and for each line whether a subgoal was reached."""
    calls, steps, at, done, rises = [], [], 0, 0, []
    for number, (length, thinking, lines) in enumerate(plans):
        calls.append(call(number, "failure", ("a",), env_step=at, clock_steps=thinking))
        at += thinking
        for reached in lines:
            at, done = at + length, done + reached
            steps.append(step(number, done, length))
            rises += [(number, at)] if reached else []
    for number, asked in enumerate(calls):
        later = [(n, when) for n, when in rises if n >= number]
        expected = (later[0][0] - number + 1, later[0][1] - asked.env_step) if later else None
        assert recovery_after(asked, episode(calls, steps)) == expected


def test_the_experts_episodes_have_all_figures(tmp_path):
    """The records of a run on disk lead to the same figures as those in memory."""
    jobs = [EpisodeJob("expert", "ERecap/HouseholdSmall-v0", seed, horizon="task") for seed in (1_000_000, 1_000_001)]
    records = []
    with EpisodeLog(tmp_path / "steps.jsonl") as log:
        for job in jobs:
            own = []
            run_episode(job, ExpertBackend(), AgentConfig(), own.append)
            log.append([record.model_dump_json() for record in own])
            records += own
    read = RunRecords.read(tmp_path / "steps.jsonl").backends["expert"]
    figures = summarize_replans(read.by_episode())
    calls = [record for record in records if isinstance(record, PlannerCall)]
    assert (figures.horizon, figures.plan_lines.max) == ("task", max(len(call.plan) for call in calls))
    assert figures.reasons["start"] == 2 / len(calls)
    assert [len(one.steps) for one in read.by_episode()] == [one.end.skills for one in read.by_episode()]
    assert read.of_cases(list(read.episodes)[::-1]).by_episode() == read.by_episode()[::-1]


def test_records_without_plans_have_no_figures_of_replans():
    """Their ``goal_changed`` also means that a subgoal was reached."""
    assert summarize_replans([episode([call(0, "start", ("a",)), call(1, "failure")])]) is None
    assert summarize_replans([]) is None
