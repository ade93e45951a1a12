"""Trimming: shorter text for a prompt, as an alternative to pruning inside the model.

``last`` keeps the newest observations and the plans since. ``mask`` keeps all plans and replaces older observations by a mark
(observation masking, Lindenbauer et al. 2025, arXiv 2508.21433). Both leave protected segments as they are.
"""

from collections.abc import Callable
from dataclasses import replace

from planner.prompt import Prompt

MASK = "(omitted)"
"""The text that replaces an older observation."""

Trim = Callable[[Prompt, int], Prompt]
"""Takes a prompt and the number of observations to keep, at least 1."""


def last_observations(prompt: Prompt, count: int) -> Prompt:
    """Drop all segments before the newest observations.

    Parameters
    ----------
    prompt
        The prompt to trim.
    count
        Number of observations to keep.

    Returns
    -------
    Prompt
        The newest ``count`` observations with the plans between them, and all protected segments.

    Raises
    ------
    ValueError
        For a ``count`` below 1.
    """
    begin = _begin(prompt, count)
    kept = tuple(segment for index, segment in enumerate(prompt.segments) if index >= begin or segment.protected)
    return replace(prompt, segments=kept)


def mask_observations(prompt: Prompt, count: int) -> Prompt:
    """Replace all but the newest observations by ``MASK``.

    Parameters
    ----------
    prompt
        The prompt to trim.
    count
        Number of observations to keep.

    Returns
    -------
    Prompt
        As many segments as before.

    Raises
    ------
    ValueError
        For a ``count`` below 1.
    """
    begin = _begin(prompt, count)
    masked = (
        replace(segment, text=MASK) if index < begin and segment.role == "user" and not segment.protected else segment
        for index, segment in enumerate(prompt.segments)
    )
    return replace(prompt, segments=tuple(masked))


TRIMS: dict[str, Trim] = {"last": last_observations, "mask": mask_observations}
"""The ways to trim by the names of the backends' options: ``last=K`` or ``mask=K``."""


def _begin(prompt: Prompt, count: int) -> int:
    """Return the index of the segment that begins the newest ``count`` observations; the latest one begins the protected end."""
    if count < 1:
        raise ValueError(f"{count} observations leave nothing to plan from: give at least 1")
    found = [index for index, segment in enumerate(prompt.segments) if segment.observation]
    if found:
        return found[max(len(found) - count, 0)]
    return _begin_of_chat(prompt, count)


def _begin_of_chat(prompt: Prompt, count: int) -> int:
    """Return the same for a chat of the user's own, in which every message of the user counts as an observation."""
    found = [index for index, segment in enumerate(prompt.segments) if segment.role == "user"]
    tasks = next((n for n, index in enumerate(found) if not prompt.segments[index].protected), len(found))
    latest = next((n for n in range(tasks, len(found)) if prompt.segments[found[n]].protected), len(found) - 1)
    return found[max(latest - count + 1, 0)]
