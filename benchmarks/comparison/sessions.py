"""Figures about sessions and drafts, from one backend's records."""

from collections.abc import Sequence

from agents.records import PlannerCall
from benchmarks.comparison.metrics import mean, quantile
from benchmarks.comparison.schema import LengthSpread, SessionSummary, TimeSpread

_POSITIONS = 8
"""Tokens of a draft of which the acceptance is shown one by one."""


def summarize_sessions(calls: Sequence[PlannerCall]) -> SessionSummary | None:
    """Sum up what one backend reused and drafted; ``None`` where it did neither."""
    made = [call.generation for call in calls]
    if not any(one.reused_tokens or one.drafts for one in made):
        return None
    later = [call.generation for call in calls if call.reason != "start" and call.generation.prompt_tokens]
    passes, drafts = [one.forward_passes for one in made], [draft for one in made for draft in one.drafts]
    waited = [call.observe_s for call in calls if call.reason != "start"]
    return SessionSummary(
        reused_share=quantile([one.reused_tokens / one.prompt_tokens for one in later], 0.5),
        passes=LengthSpread(p50=quantile(passes, 0.5), p90=quantile(passes, 0.9), max=max(passes, default=None)),
        tokens_per_pass=sum(one.new_tokens for one in made) / sum(passes) if sum(passes) else None,
        drafted=sum(drafted for drafted, _ in drafts),
        accepted=sum(accepted for _, accepted in drafts),
        accepted_at=accepted_at(drafts),
        observe_s=TimeSpread(p50=quantile(waited, 0.5), p95=quantile(waited, 0.95)),
    )


def accepted_at(drafts: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Return the share of drafts of which the first, second, ... token was accepted, of those that were as long.

    Parameters
    ----------
    drafts
        Tokens drafted and accepted in each forward pass.
    """
    shares = (mean([accepted > place for drafted, accepted in drafts if drafted > place]) for place in range(_POSITIONS))
    return tuple(share for share in shares if share is not None)
