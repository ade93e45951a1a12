"""Families of worlds: one per kind of environment, tried in order.

To add a family, write a class that follows ``agents.world.World`` and a ``Family`` that makes it: a line in ``FAMILIES``, or
``register_family`` from a package of the user's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from agents.gridworld.world import GridWorld
from agents.job import EpisodeJob
from agents.textworld.world import TextWorld
from agents.world import World
from envs import make_env
from envs.observation.text_space import outline


@dataclass(frozen=True)
class Family:
    """Environments of one kind, and how a world is made of one."""

    plays: Callable[[gym.Env[Any, Any]], bool]
    """Tells whether the family can play an environment."""
    make: Callable[[gym.Env[Any, Any], EpisodeJob], World]
    """Makes the world of one episode."""


FAMILIES: dict[str, Family] = {
    "gridworld": Family(GridWorld.plays, GridWorld.of_job),
    "textworld": Family(TextWorld.plays, TextWorld.of_job),
}


def register_family(name: str, family: Family) -> None:
    """Add a family of the user's own. It is tried before the others.

    Parameters
    ----------
    name
        The family's name. A family that already has this name is replaced.
    family
        What it plays, and how a world is made of it.
    """
    others = {known: there for known, there in FAMILIES.items() if known != name}
    FAMILIES.clear()
    FAMILIES.update({name: family, **others})


def make_world(job: EpisodeJob, render: bool = False) -> World:
    """Make the world of one episode; ``reset`` begins it.

    Parameters
    ----------
    job
        The environment, its step limit and the length of its observations.
    render
        Whether the world must be able to draw itself, see ``World.frame``.

    Raises
    ------
    ValueError
        For an environment that is unknown, that no family can play, or that cannot be drawn although ``render`` asks for it.
    """
    env = make_env(job.env_id, "rgb_array" if render else None, job.max_steps, any_kind=True)
    for family in FAMILIES.values():
        if family.plays(env):
            return family.make(env, job)
    env.close()
    raise ValueError(
        f"environment {job.env_id!r} is of no family that can be played ({', '.join(FAMILIES)}): its observation space is "
        f"{outline(env.observation_space)} and its action space {outline(env.action_space)}. A gridworld is a household or a "
        "minigrid level on RoomGrid. A text world takes Text actions and observes a Text space or a Dict with a Text entry. For "
        "anything else register a family with agents.register_family"
    )
