"""Answers as models write them (``data/plan_corpus.jsonl``): each gives the plan, or the error, that stands beside it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from agents.gridworld.names import GridNames
from planner import PlanParseError, parse_plan, parse_skill

CORPUS = Path(__file__).parent / "data" / "plan_corpus.jsonl"
CASES = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
PLANS = [case for case in CASES if "plan" in case]
ERRORS = [case for case in CASES if "error" in case]
NAMES = GridNames(("kitchen", "hall", "bedroom", "study", "garage"))


@pytest.mark.parametrize("case", PLANS, ids=lambda case: f"{case['form']}-{case['answer'][:30]!r}")
def test_a_plan_is_read(case):
    assert parse_plan(case["answer"], NAMES).text.splitlines() == case["plan"]


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: f"{case['form']}-{case['answer'][:30]!r}")
def test_what_is_no_plan_is_refused_with_the_reason(case):
    with pytest.raises(PlanParseError) as caught:
        parse_plan(case["answer"], NAMES)
    assert case["error"] in caught.value.reason


def test_the_corpus_has_150_answers_and_no_answer_twice():
    assert len(PLANS) + len(ERRORS) == len(CASES) >= 150
    assert [answer for answer, count in Counter(case["answer"] for case in CASES).items() if count > 1] == []


def test_lines_keep_their_numbers_behind_reasoning_and_markers():
    with pytest.raises(PlanParseError) as caught:
        parse_plan("<|im_start|>assistant\n<think>\na\nb\n</think>\n\ngoto kitchen\n\njump", NAMES)
    assert (caught.value.line, caught.value.text) == (9, "jump")


@pytest.mark.parametrize(
    "name",
    ["kitchen", "red ball", "object at left", "grey door in hall", "blue box in study", "ball", "red object at front in hall"],
)
def test_a_room_and_whatever_a_thing_can_be_called_are_known(name):
    assert name in NAMES


@pytest.mark.parametrize(
    "name", ["cellar", "red ball in cellar", "red", "pink ball", "red door key", "kitchen then drop", "", "in kitchen"]
)
def test_no_other_name_is_known(name):
    assert name not in NAMES


def test_an_unknown_name_is_told_which_names_there_are():
    with pytest.raises(
        PlanParseError, match=r"called 'cellar'; use the name of a room \(kitchen, hall, .* such as 'red ball in kitchen'"
    ):
        parse_skill("goto cellar", names=NAMES)


def test_without_names_any_name_is_taken_but_not_a_second_skill():
    assert parse_skill("goto cellar").text == "goto cellar"
    with pytest.raises(PlanParseError, match="more than one skill"):
        parse_skill("goto cellar then drop")
