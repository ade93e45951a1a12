"""Figures about replanning, from one backend's records: reasons, length of plans, what they kept of the old plan, recoveries."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

from agents.records import PlannerCall
from benchmarks.comparison.edits import edit_distance, reused_share
from benchmarks.comparison.metrics import mean, quantile
from benchmarks.comparison.recoveries import FORCED, summarize_recoveries
from benchmarks.comparison.schema import LengthSpread, ReplanSummary, ReuseSummary
from benchmarks.runs.records import EpisodeRecords
from planner import ReplanReason

REASONS: tuple[ReplanReason, ...] = get_args(ReplanReason)
"""All reasons of a replan, the first plan of an episode first."""
LONG_PROMPT = 8_000
"""A last prompt of more tokens than this is counted as long."""
Lines = tuple[str, ...]


def summarize_replans(episodes: Sequence[EpisodeRecords]) -> ReplanSummary | None:
    """Sum up how one backend replanned.

    Parameters
    ----------
    episodes
        Records of its finished episodes.

    Returns
    -------
    ReplanSummary or None
        All figures. ``None`` without any replan, and where plans are missing in the records: these are of a time when
        ``goal_changed`` also meant that a subgoal was reached.
    """
    calls = [call for episode in episodes for call in episode.calls]
    if not calls or any(call.plan is None and call.parse_error is None for call in calls):
        return None
    last = _last_prompts(episodes)
    return ReplanSummary(
        horizon=calls[0].horizon,
        reasons=reason_shares(calls),
        forced=forced_share(calls),
        plan_lines=_spread([len(call.plan) for call in calls if call.plan]),
        plan_tokens=_spread([call.generation.new_tokens for call in calls if call.plan and call.generation.new_tokens]),
        reuse=summarize_reuse(calls),
        recovery=summarize_recoveries(episodes),
        decode_share=quantile([share for call in calls if (share := decode_share(call)) is not None], 0.5),
        last_prompt_p50=quantile(last, 0.5),
        last_prompt_long=mean([tokens > LONG_PROMPT for tokens in last]),
        repeated=repeated_share([[call.plan for call in episode.calls if call.plan] for episode in episodes]),
        forbidden=sum(call.forbidden > 0 for call in calls),
    )


def reason_shares(calls: Sequence[PlannerCall]) -> dict[str, float]:
    """Return the share of each reason among planner calls, of which there must be one; all reasons, in their order."""
    counts = Counter(call.reason for call in calls)
    return {reason: counts[reason] / len(calls) for reason in REASONS}


def forced_share(calls: Sequence[PlannerCall]) -> float | None:
    """Return the share of replans that the world forced, of those after an episode's first plan; ``None`` without such replans."""
    return mean([call.reason in FORCED for call in calls if call.reason != "start"])


def summarize_reuse(calls: Sequence[PlannerCall]) -> ReuseSummary | None:
    """Compare each new plan with what was left of the plan before it; ``None`` where nothing was left of any."""
    pairs = [(call.rest, call.plan) for call in calls if call.rest and call.plan]
    if not pairs:
        return None
    distances = [edit_distance(rest, plan) for rest, plan in pairs]
    lines = [reused_share(rest, plan) for rest, plan in pairs]
    words = [reused_share(_words(rest), _words(plan)) for rest, plan in pairs]
    return ReuseSummary(
        replans=len(pairs),
        distance_p50=quantile(distances, 0.5) or 0.0,
        distance_mean=mean(distances) or 0.0,
        lines_p50=quantile(lines, 0.5) or 0.0,
        lines_mean=mean(lines) or 0.0,
        words_p50=quantile(words, 0.5) or 0.0,
        words_mean=mean(words) or 0.0,
    )


def decode_share(call: PlannerCall) -> float | None:
    """Return the share of a replan's own time that is decoding after the first token; ``None`` for an answer without such times."""
    made, own_s = call.generation, call.backend_s + call.overhead_s - call.generation.tokenize_s  # the backend's time includes it
    return made.decode_s / own_s if made.new_tokens and made.ttft_s and own_s > 0 else None


def repeated_share(episodes: Sequence[Sequence[Lines]]) -> float | None:
    """Return the share of plans that equal the plan before them, from the plans of each episode; ``None`` without a second plan."""
    return mean([new == old for plans in episodes for old, new in pairwise(plans)])


def _last_prompts(episodes: Sequence[EpisodeRecords]) -> list[int]:
    """Return the length of each episode's last prompt in tokens; an episode without prompts is left out."""
    lengths = [[call.generation.prompt_tokens for call in episode.calls if call.generation.prompt_tokens] for episode in episodes]
    return [prompts[-1] for prompts in lengths if prompts]


def _words(lines: Lines) -> list[str]:
    """Return the words of a plan. They stand for its tokens, which depend on the model."""
    return [word for line in lines for word in line.split()]


def _spread(lengths: Sequence[int]) -> LengthSpread:
    return LengthSpread(p50=quantile(lengths, 0.5), p90=quantile(lengths, 0.9), max=max(lengths, default=None))
