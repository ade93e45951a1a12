"""Answers as models write them, damaged at random: each is a plan of known skills and names, or the parser's own error."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.gridworld.names import GridNames
from planner import SKILLS, PlanParseError, parse_plan
from planner.answer import answer_steps

CORPUS = Path(__file__).parents[1] / "data" / "plan_corpus.jsonl"
ANSWERS = [json.loads(line)["answer"] for line in CORPUS.read_text(encoding="utf-8").splitlines()]
NAMES = GridNames(("kitchen", "hall", "bedroom", "study", "garage"))
SNIPPETS = (
    *(
        "\n",
        " ",
        "\r\n",
        "\t",
        "\x00",
        "\u2028",
        "\ud83d",
        "\ufffd",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "<",
        ">",
        "*",
        "_",
        "`",
        '"',
        "\\",
        "#",
    ),
    *(
        "<think>",
        "</think>",
        "<|im_end|>",
        "</s>",
        "```",
        "1. ",
        "a) ",
        "- ",
        "Action: ",
        "Plan:",
        " then ",
        " in ",
        " into ",
        " next to ",
    ),
    *(
        "goto ",
        "drop",
        "put ",
        "box",
        "kitchen",
        "\\boxed{",
        "<step>",
        '{"plan": ',
        "[" * 50,
        "Thought:",
        "Observation:",
        " (to ",
        " - ",
    ),
)
POSITIONS = st.integers(0, 10_000)
EDITS = st.lists(st.tuples(POSITIONS, POSITIONS, st.sampled_from(SNIPPETS), st.integers(0, 5)), min_size=1, max_size=4)


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def mutated(text: str, edits: list[tuple[int, int, str, int]]) -> str:
    """Insert, cut, double, replace, turn upper or reverse a piece of the text, once per edit."""
    for at, length, snippet, kind in edits:
        start = at % (len(text) + 1)
        end = start + length % 12
        before, piece, after = text[:start], text[start:end], text[end:]
        text = (
            before + snippet + piece + after,
            before + after,
            before + piece + piece + after,
            before + snippet + after,
            before + piece.upper() + after,
            before + piece[::-1] + after,
        )[kind]
    return text


def check(answer: str, edits: list[tuple[int, int, str, int]]) -> None:
    try:
        plan = parse_plan(mutated(answer, edits), NAMES)
    except PlanParseError:
        return
    assert plan.skills
    for skill in plan.skills:
        assert len(skill.args) == SKILLS[skill.name].arity
        assert all(name in NAMES for name in skill.args)
    assert parse_plan(plan.text, NAMES) == plan


@examples(1_000)
@given(st.sampled_from(ANSWERS), EDITS)
def test_a_damaged_answer_is_a_plan_that_the_agent_knows_or_the_parsers_error(answer, edits):
    check(answer, edits)


@pytest.mark.slow
@examples(20_000)
@given(st.sampled_from(ANSWERS), EDITS)
def test_20_000_damaged_answers(answer, edits):
    check(answer, edits)


@examples(200)
@given(st.sampled_from(ANSWERS), EDITS)
def test_a_damaged_answer_of_a_text_world_has_steps_or_the_parsers_error(answer, edits):
    text = mutated(answer, edits)
    try:
        steps = answer_steps(text, lambda line: line == "explore")
    except PlanParseError:
        return
    assert all(1 <= number <= len(text.splitlines()) for number, _ in steps)
