"""When to replan, how backends are named, and what they measure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import BackendSpec, Generation, LoopState, PlannerBackend, ReplanPolicy, Sampling
from planner.backend import cut_note

QUIET = {
    "started": True,
    "skills_left": 2,
    "skills_since_replan": 1,
    "last_failed": False,
    "surprised": False,
    "goal_changed": False,
}
WORDS = st.text("abcXYZ09._-/:+% ", min_size=1, max_size=8).map(str.strip).filter(bool)


def state(**changes):
    return LoopState(**{**QUIET, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"started": False}, "start"),
        ({"last_failed": True}, "failure"),
        ({"goal_changed": True}, "goal_changed"),
        ({"surprised": True}, "surprise"),
        ({"skills_left": 0}, "plan_end"),
        ({"last_failed": True, "skills_left": 0}, "failure"),
        ({"goal_changed": True, "surprised": True}, "goal_changed"),
        ({"goal_changed": True, "last_failed": True}, "goal_changed"),
        ({"surprised": True, "skills_left": 0}, "surprise"),
        ({"started": False, "last_failed": True}, "start"),
        ({"skills_since_replan": 99}, None),
    ],
)
def test_reasons_and_which_comes_first(changes, reason):
    assert ReplanPolicy().reason(state(**changes)) == reason


@pytest.mark.parametrize(("since", "reason"), [(1, None), (2, "interval"), (3, "interval")])
def test_a_fixed_interval(since, reason):
    assert ReplanPolicy(every=2).reason(state(skills_since_replan=since)) == reason


def test_failure_and_surprise_can_be_left_out_but_the_plan_still_ends():
    policy = ReplanPolicy(on_failure=False, on_surprise=False)
    assert policy.reason(state(last_failed=True, surprised=True)) is None
    assert policy.reason(state(last_failed=True, surprised=True, skills_left=0)) == "plan_end"


@pytest.mark.parametrize("every", [0, -1])
def test_an_interval_of_no_skill_is_refused(every):
    with pytest.raises(ValueError, match=f"every={every} must be at least 1 skill"):
        ReplanPolicy(every=every)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("baseline", "baseline", {}),
        ("erecap?keep=0.7", "erecap", {"keep": "0.7"}),
        (" erecap?keep=0.7&selector=random ", "erecap", {"keep": "0.7", "selector": "random"}),
        ("openai?base_url=http://localhost:8000/v1&model=a", "openai", {"base_url": "http://localhost:8000/v1", "model": "a"}),
        ("expert?", "expert", {}),
        ("a?empty=", "a", {"empty": ""}),
        ("baseline?model=/my models/a+b%20c=d", "baseline", {"model": "/my models/a+b%20c=d"}),
    ],
)
def test_spec_strings(text, name, options):
    spec = BackendSpec.parse(text)
    assert (spec.name, spec.options) == (name, options)


@given(WORDS, st.dictionaries(WORDS, WORDS, max_size=4))
def test_a_spec_string_comes_back(name, options):
    spec = BackendSpec(name, tuple(options.items()))
    assert BackendSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no name"),
        ("?keep=1", "has no name"),
        ("a?keep", "key=value"),
        ("a?=1", "key=value"),
        ("a?b=1&", "key=value"),
        ("a?k=1&k=2", "gives k twice"),
    ],
)
def test_bad_spec_strings(text, problem):
    with pytest.raises(ValueError, match=problem):
        BackendSpec.parse(text)


@pytest.mark.parametrize(("field", "value"), [("max_new_tokens", 0), ("temperature", -0.1)])
def test_bad_sampling(field, value):
    with pytest.raises(ValueError, match=f"{field}={value} must"):
        Sampling(**{field: value})


def test_what_a_generation_says_of_itself():
    made = Generation("explore", prompt_tokens=100, new_tokens=5, layer_tokens=(100, 100, 50, 30), decode_s=2.0)
    assert made.kept_share == pytest.approx(0.7)
    assert made.dropped_tokens == 70
    assert made.tpot_s == pytest.approx(0.5)


def test_a_generation_without_layers_has_dropped_nothing():
    made = Generation("explore", prompt_tokens=100, new_tokens=1, decode_s=2.0)
    assert (made.kept_share, made.dropped_tokens, made.tpot_s) == (1.0, 0, 0.0)


@pytest.mark.parametrize(
    ("text", "readable", "note"),
    [
        ("First I think about where the", "", "cut after 9 tokens, before its first line was complete"),
        ("", "", "cut after 9 tokens, before its first line was complete"),
        ("\n\nFirst I", "", "cut after 9 tokens, before its first line was complete"),
        ("explore\npickup re", "explore", "cut after 9 tokens, its last line was left out"),
        ("explore\n", "explore", "cut after 9 tokens, its last line was left out"),
    ],
)
def test_an_answer_that_was_cut_says_so(text, readable, note):
    cut = Generation(text, new_tokens=9, truncated=True)
    assert cut.complete_text.strip() == readable
    assert note in cut_note(cut)
    assert cut_note(Generation(text, new_tokens=9)) is None


def test_backends_are_told_by_their_method():
    class Backend:
        def generate(self, prompt, sampling, on_line=None):
            return Generation("done")

    assert isinstance(Backend(), PlannerBackend)
    assert not isinstance(object(), PlannerBackend)
