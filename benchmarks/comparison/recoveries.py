"""How episodes go on after a replan that the world caused: whether they get further, and how soon."""

from collections.abc import Sequence
from itertools import accumulate

from agents.records import PlannerCall
from benchmarks.comparison.metrics import quantile
from benchmarks.comparison.schema import RecoverySummary
from benchmarks.runs.records import EpisodeRecords

FORCED = ("failure", "surprise", "goal_changed")
"""Reasons of a replan that the world gives: what happened contradicts the plan, or the task is another one now."""


def summarize_recoveries(episodes: Sequence[EpisodeRecords]) -> RecoverySummary | None:
    """Sum up what followed the forced replans of some episodes; ``None`` where there are none."""
    after = [recovery_after(call, episode) for episode in episodes for call in episode.calls if call.reason in FORCED]
    if not after:
        return None
    found = [recovery for recovery in after if recovery is not None]
    return RecoverySummary(
        replans=len(after),
        recovered=len(found) / len(after),
        replans_p50=quantile([plans for plans, _ in found], 0.5),
        env_steps_p50=quantile([steps for _, steps in found], 0.5),
    )


def recovery_after(call: PlannerCall, episode: EpisodeRecords) -> tuple[int, int] | None:
    """Find where the episode got further after a replan: at a further subgoal, or at its end with success.

    Parameters
    ----------
    call
        A replan of the episode.
    episode
        The records of the episode.

    Returns
    -------
    tuple of int, or None
        Plans and environment steps from the replan up to there, its own plan included; ``None`` where the episode got no further.
    """
    before = next((step.subgoals_done for step in reversed(episode.steps) if step.replan < call.replan), 0)
    for index, (step, at) in enumerate(zip(episode.steps, _ends(episode), strict=True)):
        fulfilled = episode.end.success and index == len(episode.steps) - 1
        if step.replan >= call.replan and (step.subgoals_done > before or fulfilled):
            return step.replan - call.replan + 1, at - call.env_step
    return None


def _ends(episode: EpisodeRecords) -> list[int]:
    """Return the environment step at which each line of a plan ended, counted from the start of the episode."""
    ends: list[int] = []
    for call in episode.calls:
        lines = [step.env_steps for step in episode.steps if step.replan == call.replan]
        ends += list(accumulate(lines, initial=call.env_step + call.clock_steps))[1:]
    return ends
