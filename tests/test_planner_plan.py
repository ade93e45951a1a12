"""Reading plans: canonical ones come back, common decorations make no difference, the rest is refused with line and reason."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from planner import SKILLS, Plan, PlanParseError, SkillCall, parse_plan, parse_skill
from planner.plan import spelled_line

COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
NAMES = st.one_of(
    st.builds("{} {}".format, st.sampled_from(COLORS), st.sampled_from(("ball", "key", "box", "door"))),
    st.sampled_from(("kitchen", "hall", "room 10", "red ball at left", "object at front", "antenna", "then")),
)


def calls_of(spec):
    if spec.arity == 2:
        return st.builds(lambda a, b, joint: SkillCall(spec.name, (a, b), joint), NAMES, NAMES, st.sampled_from(spec.joints))
    return st.builds(lambda args: SkillCall(spec.name, tuple(args)), st.lists(NAMES, min_size=spec.arity, max_size=spec.arity))


CALLS = st.sampled_from(list(SKILLS.values())).flatmap(calls_of)
PLANS = st.lists(CALLS, min_size=1, max_size=8).map(lambda calls: Plan(tuple(calls)))
NUMBERINGS = st.sampled_from(("", "{}. ", "{}) ", "({}) ", "{}: ", "Step {}: ", "step {} - ", "- ", "* ", "\u2022 ", "> ", "  "))
QUOTES = st.sampled_from(("{}", '"{}"', "'{}'", "`{}`", "**{}**", "({})", "\u201c{}\u201d", "\u2018{}\u2019"))
ENDINGS = st.sampled_from(("", ".", ",", ";", " ", "."))
CASES = st.sampled_from((str.lower, str.upper, str.title))
ARTICLES = st.sampled_from(("", "the ", "a ", "an ", "The "))


@given(PLANS)
def test_a_canonical_plan_comes_back(plan):
    assert parse_plan(plan.text) == plan


@given(PLANS, NUMBERINGS, QUOTES, ENDINGS, CASES)
def test_numbering_bullets_quotes_case_and_punctuation_make_no_difference(plan, numbering, quotes, ending, case):
    lines = [numbering.format(n) + quotes.format(case(call.text)) + ending for n, call in enumerate(plan.skills, 1)]
    assert parse_plan("\n".join(lines)) == plan


@given(PLANS, st.sampled_from(("```\n{}\n```", "```text\n{}\n```", "Plan:\n{}", "\n\n{}\n\n", "answer: {}", "{}\r\n", "\t{}")))
def test_fences_labels_and_empty_lines_make_no_difference(plan, frame):
    assert parse_plan(frame.format(plan.text)) == plan


@given(CALLS, ARTICLES, ARTICLES)
def test_articles_make_no_difference(call, first, second):
    args = tuple(article + arg for article, arg in zip((first, second), call.args, strict=False))
    assert parse_skill(SkillCall(call.name, args, call.joint).text) == call


@pytest.mark.parametrize(
    ("text", "skill"),
    [
        ("go to the kitchen", "goto kitchen"),
        ("Navigate to kitchen", "goto kitchen"),
        ("walk to kitchen", "goto kitchen"),
        ("go_to kitchen", "goto kitchen"),
        ("pick up the red ball", "pickup red ball"),
        ("goto(kitchen)", "goto kitchen"),
        ('goto "kitchen"', "goto kitchen"),
        ('pickup "red ball" in kitchen', "pickup red ball in kitchen"),
        ("```pickup red ball```", "pickup red ball"),
        ("goto janet's room", "goto janet's room"),
        ("put the red ball  next to  the box in", "put red ball next to box in"),
    ],
)
def test_other_words_for_a_skill(text, skill):
    assert parse_skill(text).text == skill


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("put red ball in kitchen in blue box in hall", ("red ball in kitchen", "blue box in hall")),
        ("put red ball in kitchen in blue box", ("red ball in kitchen", "blue box")),
        ("put red ball in blue box in hall", ("red ball", "blue box in hall")),
        ("put red box in kitchen in blue box in hall", ("red box in kitchen", "blue box in hall")),
        ("put red ball in hall", ("red ball", "hall")),
        ("put red ball in kitchen next to blue key in hall", ("red ball in kitchen", "blue key in hall")),
    ],
)
def test_both_things_may_have_their_room(text, args):
    assert parse_skill(text).args == args


@given(st.text(max_size=80))
@example("goto x (.)")
@example("```goto kitchen")
@example("1. ")
def test_any_text_is_a_plan_or_an_error_and_a_plan_stays_what_it_is(text):
    plan = None
    with contextlib.suppress(PlanParseError):
        plan = parse_plan(text)
    assert plan is None or (plan.skills and parse_plan(plan.text) == plan)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fly to kitchen", "unknown skill 'fly', the skills are goto, pickup, drop, put, open, unlock, explore, done"),
        ("goto", "goto takes one argument"),
        ("drop red ball", "drop takes no argument"),
        ("put red ball", "put takes two arguments: 'put X next to Y' or 'put X in Y'"),
        ("put red ball on box", "put takes two arguments"),
        ("put in box", "put takes two arguments"),
        ("First, goto kitchen", "unknown skill 'first,'"),
        ("goto kitchen, then pickup red ball", "',' is in no name"),
        ("goto kitchen;explore", "';' is in no name"),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_an_error_names_line_text_and_reason(line, reason, before):
    with pytest.raises(PlanParseError) as caught:
        parse_plan("explore\n" * before + line + "\ndone")
    error = caught.value
    assert (error.line, error.text) == (before + 1, line)
    assert reason in error.reason
    assert str(error).startswith(f"line {before + 1} {line!r}: {error.reason}; ")
    assert isinstance(error, ValueError)


@pytest.mark.parametrize("text", ["", " \n\t\n", "```\n```", "...", "Plan:"])
def test_an_answer_without_a_skill_is_an_error(text):
    with pytest.raises(PlanParseError, match="there is no skill in the answer"):
        parse_plan(text)


def test_lines_are_counted_as_they_stand_in_the_answer():
    with pytest.raises(PlanParseError) as caught:
        parse_plan("```\nexplore\n\njump\n```")
    assert caught.value.line == 4


def test_every_usage_in_the_registry_can_be_parsed():
    for spec in SKILLS.values():
        for usage in spec.usage.splitlines():
            call = parse_skill(usage)
            assert (call.name, len(call.args)) == (spec.name, spec.arity)


@pytest.mark.parametrize(
    ("line", "spelled"),
    [
        ("1. Open (the) Door.", "Open (the) Door"),
        ("- **Search[Red Shoes]**", "Search[Red Shoes]"),
        ('2) "take key"', "take key"),
        ('say "hello"', 'say "hello"'),
        ('"yes" and "no"', '"yes" and "no"'),
        ("\u201cgo\u201d", "go"),
        ("Plan: `look`", "look"),
        ("```python", ""),
        ("  ", ""),
    ],
)
def test_a_line_keeps_its_spelling(line, spelled):
    assert spelled_line(line) == spelled
