"""Which worlds there are: one family per kind of environment, tried in order.

A new family is a class that follows ``agents.world.World`` and a ``Family``, here or registered by a package of the user's own.
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


@dataclass(frozen=True)
class Family:
    """Environments of one kind, and the world that is made of one."""

    plays: Callable[[gym.Env[Any, Any]], bool]
    """Whether the family can play an environment."""
    make: Callable[[gym.Env[Any, Any], EpisodeJob], World]
    """Make the world of an environment that the family can play."""


FAMILIES: dict[str, Family] = {
    "gridworld": Family(GridWorld.plays, GridWorld.of_job),
    "textworld": Family(TextWorld.plays, TextWorld.of_job),
}


def register_family(name: str, family: Family) -> None:
    """Add a family of the user's own, which is asked before those that are there.

    Parameters
    ----------
    name
        The family's name. Registering the same one again replaces it.
    family
        What it plays, and how a world is made.
    """
    others = {known: there for known, there in FAMILIES.items() if known != name}
    FAMILIES.clear()
    FAMILIES.update({name: family, **others})


def make_world(job: EpisodeJob, render: bool = False) -> World:
    """Make the world of one episode; ``reset`` begins it.

    Parameters
    ----------
    job
        Which environment, with which limit of steps and verbosity.
    render
        Whether ``frame`` will be asked for.

    Raises
    ------
    ValueError
        For an environment that is unknown, or that no family can play.
    """
    env = make_env(job.env_id, render_mode="rgb_array" if render else None, max_steps=job.max_steps)
    for family in FAMILIES.values():
        if family.plays(env):
            return family.make(env, job)
    raise ValueError(
        f"environment {job.env_id!r} is of no family that can be played ({', '.join(FAMILIES)}): register one for it with "
        "agents.register_family"
    )
