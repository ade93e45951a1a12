"""The figures and the table about sessions and drafts."""

from agents.records import PlannerCall
from benchmarks.comparison.sessions import accepted_at, summarize_sessions
from planner import Generation, ReplanReason


def call(reason: ReplanReason, made: Generation, observe_s: float = 0.0) -> PlannerCall:
    return PlannerCall(
        backend="b", env_id="e", seed=0, replan=0, env_step=0, reason=reason, history_entries=2, generation=made,
        backend_s=0.1, overhead_s=0.0, replan_s=0.1, observe_s=observe_s,
    )  # fmt: skip


FIRST = Generation("a", prompt_tokens=100, new_tokens=8, drafts=((0, 0),) * 8)
SECOND = Generation("a", prompt_tokens=200, new_tokens=8, reused_tokens=150, drafts=((4, 4), (4, 1), (1, 0)))


def test_what_was_reused_and_drafted() -> None:
    figures = summarize_sessions([call("start", FIRST), call("failure", SECOND, 0.25)])
    assert figures is not None
    assert figures.reused_share == 0.75
    assert (figures.passes.p50, figures.passes.max) == (5.5, 8)
    assert figures.tokens_per_pass == 16 / 11
    assert (figures.drafted, figures.accepted) == (9, 5)
    assert figures.accepted_at == (2 / 3, 0.5, 0.5, 0.5)
    assert figures.observe_s.p50 == 0.25


def test_a_backend_that_keeps_and_drafts_nothing_has_no_figures() -> None:
    assert summarize_sessions([call("start", Generation("a", prompt_tokens=9, new_tokens=3))]) is None
    assert summarize_sessions([]) is None
    assert accepted_at([]) == ()


def test_forward_passes_without_drafts_are_one_for_each_token() -> None:
    assert Generation("a", new_tokens=7).forward_passes == 7
    assert SECOND.forward_passes == 3
