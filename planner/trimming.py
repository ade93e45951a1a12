"""Shortening the text of a prompt: the peers of pruning inside the model.

``last`` keeps the newest observations and what was answered since; ``mask`` keeps every plan and puts a mark in the place of
older observations (observation masking, Lindenbauer et al. 2025, arXiv 2508.21433). Protected segments stay as they are.
"""

from collections.abc import Callable
from dataclasses import replace

from planner.prompt import Prompt

MASK = "(omitted)"

Trim = Callable[[Prompt, int], Prompt]
"""Takes a prompt and the number of observations that stay."""


def last_observations(prompt: Prompt, count: int) -> Prompt:
    """Only the newest ``count`` observations, with the plans between them, and what is protected."""
    begin = _begin(prompt, count)
    return Prompt(tuple(segment for index, segment in enumerate(prompt.segments) if index >= begin or segment.protected))


def mask_observations(prompt: Prompt, count: int) -> Prompt:
    """Every plan, and a mark instead of all but the newest ``count`` observations."""
    begin = _begin(prompt, count)
    return Prompt(
        tuple(
            replace(segment, text=MASK) if index < begin and segment.role == "user" and not segment.protected else segment
            for index, segment in enumerate(prompt.segments)
        )
    )


TRIMS: dict[str, Trim] = {"last": last_observations, "mask": mask_observations}


def _begin(prompt: Prompt, count: int) -> int:
    """Where the newest ``count`` observations begin. The latest is the first of the protected segments at the end."""
    if count < 1:
        raise ValueError(f"{count} observations leave nothing to plan from: give at least 1")
    found = [index for index, segment in enumerate(prompt.segments) if segment.role == "user"]
    tasks = next((n for n, index in enumerate(found) if not prompt.segments[index].protected), len(found))
    latest = next((n for n in range(tasks, len(found)) if prompt.segments[found[n]].protected), len(found) - 1)
    return found[max(latest - count + 1, 0)]
