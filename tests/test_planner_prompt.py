"""The history is append-only and the prompt follows it: each prompt begins with the one before it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import SKILLS, Entry, History, Prompt, build_prompt, system_text

TEXTS = st.text(min_size=1, max_size=20).filter(str.strip)
EVENTS = st.lists(st.tuples(st.sampled_from(("observation", "plan", "feedback")), TEXTS), max_size=12)


def history_of(events):
    history = History().append("task", "Task: 1. open red door.")
    for kind, text in events:
        history = history.append(kind, text)
    return history


@given(EVENTS, EVENTS)
def test_appending_changes_nothing_that_was_there(events, later):
    history = history_of(events)
    entries = history.entries
    longer = history
    for kind, text in later:
        longer = longer.append(kind, text)
    assert history.entries is entries
    assert longer.entries[: len(entries)] == entries
    assert all(a is b for a, b in zip(entries, longer.entries, strict=False))
    assert len(longer.entries) == len(entries) + len(later)


def test_history_is_immutable():
    history = history_of([])
    with pytest.raises(dataclasses.FrozenInstanceError):
        history.entries = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        history.entries[0].text = "another task"


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_entry_is_refused(text):
    with pytest.raises(ValueError, match="the text of a plan entry is empty"):
        history_of([]).append("plan", text)


def test_the_task_comes_first_and_once():
    with pytest.raises(ValueError, match="entry 0 is of kind 'observation': the task comes first"):
        History().append("observation", "You see a ball.")
    with pytest.raises(ValueError, match="entry 1 is of kind 'task'"):
        history_of([]).append("task", "another")


@given(EVENTS)
def test_latest_observation(events):
    history = history_of(events)
    kinds = [entry.kind for entry in history.entries]
    latest = history.latest_observation
    assert "observation" not in kinds[latest + 1 :]
    assert latest == len(kinds) or kinds[latest] == "observation"


@given(EVENTS)
def test_protected_are_system_task_current_plan_and_everything_since_the_latest_observation(events):
    history = history_of(events)
    system, *rest = build_prompt(history).segments
    assert (system.role, system.text, system.protected) == ("system", system_text(), True)
    assert [segment.text for segment in rest] == [entry.text for entry in history.entries]
    for index, (segment, entry) in enumerate(zip(rest, history.entries, strict=True)):
        assert segment.role == ("assistant" if entry.kind == "plan" else "user")
        assert segment.protected == (index in (0, history.current_plan) or index >= history.latest_observation)


@given(EVENTS, EVENTS.filter(bool))
def test_a_prompt_begins_with_the_prompt_before_it(events, later):
    before = build_prompt(history_of(events)).messages()
    after = build_prompt(history_of(events + later)).messages()
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_messages_are_what_a_chat_template_takes():
    messages = build_prompt(history_of([("observation", "You see a ball."), ("plan", "explore")])).messages()
    assert [message["role"] for message in messages] == ["system", "user", "user", "assistant"]
    assert messages[2] == {"role": "user", "content": "You see a ball."}


def test_the_system_text_lists_every_skill():
    lines = system_text().splitlines()
    assert all(usage in lines for spec in SKILLS.values() for usage in spec.usage.splitlines())


def test_a_prompt_of_no_segments_is_refused():
    with pytest.raises(ValueError, match="a prompt of 0 segments"):
        Prompt(())


def test_entries_compare_by_value():
    assert history_of([("plan", "done")]).entries[1] == Entry("plan", "done")
