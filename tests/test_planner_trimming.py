"""Shortening the text of a prompt: what stays and what goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Entry, History, build_prompt
from planner.prompt import Prompt
from planner.trimming import MASK, TRIMS, last_observations, mask_observations


def prompt_of(turns: int, tasks: int = 1) -> Prompt:
    entries = [Entry("task", f"task {n}") for n in range(tasks)]
    for turn in range(turns):
        entries += [Entry("observation", f"seen {turn}"), Entry("plan", f"plan {turn}")]
    return build_prompt(History((*entries, Entry("observation", f"seen {turns}"))))


def texts(prompt: Prompt) -> list[str]:
    return [segment.text for segment in prompt.segments[1:]]


def test_the_last_observations_stay_with_the_plans_between_them():
    assert texts(last_observations(prompt_of(4), 2)) == ["task 0", "seen 3", "plan 3", "seen 4"]
    assert texts(last_observations(prompt_of(4), 1)) == ["task 0", "plan 3", "seen 4"]


def test_masking_keeps_every_plan():
    wanted = ["task 0", MASK, "plan 0", MASK, "plan 1", "seen 2", "plan 2", "seen 3"]
    assert texts(mask_observations(prompt_of(3), 2)) == wanted


def test_feedback_belongs_to_the_latest_observation():
    entries = (Entry("task", "t"), Entry("observation", "old"), Entry("plan", "p"), Entry("observation", "new"), Entry("plan", "?"))
    prompt = build_prompt(History((*entries, Entry("feedback", "line 1: unknown"))))
    assert texts(last_observations(prompt, 1)) == ["t", "p", "new", "?", "line 1: unknown"]


def test_outcomes_of_skills_are_no_observations():
    entries = [Entry("task", "t"), Entry("briefing", "b")]
    for turn in range(3):
        entries += [Entry("observation", f"seen {turn}"), Entry("plan", f"p{turn}"), *[Entry("outcome", f"did {turn}")] * 2]
    prompt = build_prompt(History((*entries, Entry("observation", "seen 3"))))
    assert texts(last_observations(prompt, 2)) == ["t", "seen 2", "p2", "did 2", "did 2", "seen 3"]
    masked = ["t", MASK, MASK, "p0", MASK, MASK, MASK, "p1", MASK, MASK, "seen 2", "p2", "did 2", "did 2", "seen 3"]
    assert texts(mask_observations(prompt, 2)) == masked


@given(turns=st.integers(0, 12), tasks=st.integers(1, 2), count=st.integers(1, 14), name=st.sampled_from(sorted(TRIMS)))
def test_what_is_protected_stays_and_enough_observations_change_nothing(turns: int, tasks: int, count: int, name: str):
    prompt = prompt_of(turns, tasks)
    trimmed = TRIMS[name](prompt, count)
    assert [s for s in trimmed.segments if s.protected] == [s for s in prompt.segments if s.protected]
    assert trimmed == prompt if count > turns else len(texts(trimmed)) <= len(texts(prompt))
    assert sum(s.text.startswith("seen") for s in trimmed.segments) == min(count, turns + 1)


def test_no_observation_is_nothing_to_plan_from():
    with pytest.raises(ValueError, match="at least 1"):
        last_observations(prompt_of(1), 0)
