"""The progress of an episode as ``info`` reports it, and the error for an action outside an episode."""

from typing import Any


class EpisodeOverError(ValueError):
    """An action before the first ``reset`` or after the end of an episode."""


def goal_info(subgoals: list[tuple[str, bool]], success: bool, disturbances: list[str]) -> dict[str, Any]:
    """Build the part of ``info`` that all environments share.

    Parameters
    ----------
    subgoals
        Text of each subgoal and whether it is done, in the order in which they are due.
    success
        Whether the task is done.
    disturbances
        What disturbed this step, such as ``red door closed``.

    Returns
    -------
    dict
        ``subgoals`` (texts), ``subgoals_done`` and ``subgoals_total`` (counts), ``subgoal`` (the open one, empty on success),
        ``subgoals_open`` (texts of all open ones, none on success), ``numbers_open`` (their numbers in the task, from 1),
        ``success`` and ``disturbances``.
    """
    open_ones = [text for text, done in subgoals if not done]
    return {
        "subgoals": [text for text, _ in subgoals],
        "subgoals_done": len(subgoals) - len(open_ones),
        "subgoals_total": len(subgoals),
        "subgoal": open_ones[0] if open_ones and not success else "",
        "subgoals_open": [] if success else open_ones,
        "numbers_open": [] if success else [number for number, (_, done) in enumerate(subgoals, 1) if not done],
        "success": success,
        "disturbances": disturbances,
    }
