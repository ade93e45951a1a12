"""Answers as models write them (``data/plan_corpus.jsonl``): each gives the plan, or the error, that stands beside it."""

import json
from collections import Counter
from pathlib import Path

import pytest

from agents.gridworld.names import GridNames
from planner import PlanParseError, first_skill, parse_plan, parse_skill

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


def test_the_plan_before_nested_reasoning_stays():
    assert parse_plan("drop\n<think>a <think> b</think> c\n</think>\nexplore", NAMES).text == "drop\nexplore"


def test_an_error_shows_the_beginning_of_a_long_line():
    line = "The robot should go to the kitchen. " * 300
    with pytest.raises(PlanParseError) as caught:
        parse_plan(line, NAMES)
    assert caught.value.text == line
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "$", "- ", "1. ", "note ", "(", "goto [", "put a in ", "<|im_start|>", "```\n"]
)
def test_a_long_answer_of_one_piece_is_read_in_one_pass(piece):
    with pytest.raises(PlanParseError):  # which takes hours where the time grows with the square of the length
        parse_plan(piece * 50_000, NAMES)


def begun(answer):
    """The first skill that is certain while the lines of an answer come, and the number of lines by then."""
    lines = answer.split("\n")
    firsts = ((first_skill("\n".join(lines[:count]), NAMES), count) for count in range(1, len(lines) + 1))
    return next((found for found in firsts if found[0] is not None), (None, len(lines)))


TAKEN_BACK = ("</think>", "final")
"""What takes back the lines before it."""


def test_what_is_certain_before_the_end_is_the_first_skill_of_the_plan():
    early = 0
    for case in PLANS:
        skill, count = begun(case["answer"])
        if skill is None:
            continue
        assert skill.text == case["plan"][0] or any(mark in case["answer"] for mark in TAKEN_BACK), case
        early += count < len(case["answer"].strip().split("\n"))
    assert early > len(PLANS) / 4


@pytest.mark.parametrize(
    ("so_far", "skill"),
    [
        ("goto kitchen", "goto kitchen"),
        ("3. pickup red ball in hall", "pickup red ball in hall"),
        ("Here is the plan:\n```\n- Goto the kitchen.", "goto kitchen"),
        ("<think>\ngoto hall\n</think>\n\ngoto kitchen\n", "goto kitchen"),
        ("<plan>\n<step>goto kitchen</step>", "goto kitchen"),
        ("Here is the plan:", None),
        ("<think>\ngoto hall", None),
        ("First I need a key.\ngoto kitchen", None),
        ("goto kitchen\ngoto hall", None),
        ('[\n"goto kitchen",', None),
        ('```json\n[\n"goto kitchen",', None),
        ("goto the moon", None),
        ("goto kitchen, then goto hall", None),
        ("", None),
    ],
)
def test_a_first_skill_is_certain_or_there_is_none_yet(so_far, skill):
    found = first_skill(so_far, NAMES)
    assert (found and found.text) == skill
