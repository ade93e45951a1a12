"""What planners read that were not trained on these worlds, and what stays out of their history."""

import pytest

from agents.guides import EXAMPLE_SEED, guide_for, worked_example
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import EpisodeRecord, PlannerCall, TranscriptRecord
from benchmarks.commands.agent_options import AgentOptions
from benchmarks.runs.suites import HELD_OUT
from planner import SKILLS, Generation, parse_plan
from planner.answer import without_reasoning

SMALL = "ERecap/HouseholdSmall-v0"
JOB = EpisodeJob("baseline", SMALL, 7)


class Reciter:
    """Gives its answers in turn, the last one again and again, and keeps the prompts."""

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def generate(self, prompt, sampling, on_line=None):
        self.prompts.append(prompt)
        return Generation(text=self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


def play(backend, job=JOB, **settings):
    records = []
    run_episode(job, backend, AgentConfig(max_replans=3, **settings), records.append)
    return records


def test_a_trained_planner_reads_nothing_more():
    assert guide_for(JOB, "trained") == ""


def test_every_skill_is_explained():
    guide = guide_for(JOB, "explained")
    assert all(spec.meaning in guide for spec in SKILLS.values())
    assert "example" not in guide


@pytest.mark.parametrize("horizon", ["subgoal", "task"])
def test_the_example_is_an_episode_of_the_expert_that_no_suite_plays(horizon):
    job = EpisodeJob("expert", SMALL, EXAMPLE_SEED, horizon=horizon)
    example = worked_example(job)
    answers = [part.removeprefix("You answer:\n") for part in example.split("\n\n") if part.startswith("You answer:")]
    assert len(answers) == 2
    assert all(parse_plan(answer).skills for answer in answers)
    assert "Task: " in example
    assert EXAMPLE_SEED < HELD_OUT
    assert example in guide_for(JOB if horizon == "subgoal" else EpisodeJob("b", SMALL, 1, horizon="task"), "few-shot")


def test_the_guide_is_in_the_prompts_and_in_the_record():
    guide = guide_for(JOB, "explained")
    backend = Reciter("explore")
    records = play(backend, EpisodeJob("baseline", SMALL, 7, guide=guide))
    assert all(prompt.segments[0].text.endswith(guide) for prompt in backend.prompts)
    assert all(prompt.segments[0].protected for prompt in backend.prompts)
    assert next(r for r in records if isinstance(r, EpisodeRecord)).system == backend.prompts[0].segments[0].text


@pytest.mark.parametrize("quoted", [True, False])
def test_an_unreadable_answer_stays_in_the_history_where_it_is_quoted(quoted):
    backend = Reciter("fly to the moon and back", "explore")
    records = play(backend, quote_unread=quoted)
    plans = [r.text for r in records if isinstance(r, TranscriptRecord) and r.entry == "plan"]
    assert ("fly to the moon and back" in plans) == quoted
    assert any("could not be read" in segment.text for segment in backend.prompts[1].segments), "why, in any case"
    assert next(r for r in records if isinstance(r, PlannerCall)).generation.text == "fly to the moon and back"


def test_reasoning_is_recorded_and_in_no_history():
    answer = "<think>\nI should look around.\n</think>\n\nexplore"
    backend = Reciter(answer)
    records = play(backend)
    assert {r.text for r in records if isinstance(r, TranscriptRecord) and r.entry == "plan"} == {"explore"}
    assert {r.generation.text for r in records if isinstance(r, PlannerCall)} == {answer}
    assert not any("look around" in segment.text for prompt in backend.prompts for segment in prompt.segments)


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("goto hall\n\ndrop", "goto hall\n\ndrop"),
        ("<think>a</think>goto hall", "goto hall"),
        ("a\n</think>\n\ngoto hall", "goto hall"),
        ("<think>never ends", "<think>never ends"),
        ("", ""),
    ],
)
def test_answers_without_their_reasoning(answer, left):
    assert without_reasoning(answer) == left


def test_styles_are_options_of_the_command_line():
    assert AgentOptions(prompt="few-shot").suffix == "-few-shot"
    assert not AgentOptions(prompt="explained").config.quote_unread
    assert AgentOptions().config.quote_unread
    with pytest.raises(ValueError, match="--prompt 'loud' is unknown: choose from trained, explained, few-shot"):
        _ = AgentOptions(prompt="loud").style
