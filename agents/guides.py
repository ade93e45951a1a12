"""What a planner reads behind the system text if it was not trained on these worlds: what the skills do, and a worked example."""

from dataclasses import replace
from functools import lru_cache
from typing import Literal, get_args

from agents.expert_backend import ExpertBackend, has_expert
from agents.families import make_world
from agents.job import EpisodeJob
from agents.loop import run_episode
from agents.protocols import AgentConfig
from agents.records import Record, TranscriptRecord
from agents.world_extras import explanation_of

PromptStyle = Literal["trained", "explained", "few-shot"]
"""``trained`` adds nothing, ``explained`` what each line of a plan does, ``few-shot`` a worked example as well."""
STYLES: tuple[PromptStyle, ...] = get_args(PromptStyle)
EXAMPLE_SEED = 900_000
"""Seed of the example's episode. No suite plays it, and nothing is trained on it."""
EXAMPLE_PLANS = 2
"""Plans of the expert that the example shows."""
_SPOKEN = {"plan": "You answer:"}


def guide_for(job: EpisodeJob, style: PromptStyle) -> str:
    """Write the guide of an episode.

    Parameters
    ----------
    job
        The episode.
    style
        How much to say.

    Returns
    -------
    str
        The guide, the same for all episodes of an environment with this horizon and verbosity; empty for ``trained``.

    Raises
    ------
    ValueError
        For an environment that is unknown or cannot be played, and for ``few-shot`` in one without an expert.
    """
    if style == "trained":
        return ""
    anywhere = replace(job, backend="expert", seed=EXAMPLE_SEED, max_steps=None, guide="")
    return _guide(anywhere, style)


@lru_cache(maxsize=64)
def _guide(job: EpisodeJob, style: PromptStyle) -> str:
    parts = [_explanation(job)]
    if style == "few-shot":
        parts.append(worked_example(job))
    return "\n\n".join(part for part in parts if part)


def _explanation(job: EpisodeJob) -> str:
    world = make_world(job)
    try:
        return explanation_of(world)
    finally:
        world.close()


def worked_example(job: EpisodeJob) -> str:
    """Write what an agent reads and answers at the beginning of an episode that the expert plays.

    Raises
    ------
    ValueError
        For an environment without an expert.
    """
    if not has_expert(job):
        raise ValueError(
            f"environment {job.env_id!r} has no expert to take an example from: choose --prompt explained, or give the environment "
            "a method expert_plan()"
        )
    entries: list[TranscriptRecord] = []

    def keep(record: Record) -> None:
        if isinstance(record, TranscriptRecord):
            entries.append(record)

    run_episode(job, ExpertBackend(), AgentConfig(max_replans=EXAMPLE_PLANS), keep)
    last = max(number for number, entry in enumerate(entries) if entry.entry == "plan")
    shown = [f"{_SPOKEN.get(entry.entry, 'You read:')}\n{entry.text}" for entry in entries[: last + 1]]
    return "\n\n".join(["An example, in another place:", *shown, "End of the example."])
