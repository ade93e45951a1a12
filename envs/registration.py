"""Which environments there are, by gymnasium id, and how to make one ready for an agent."""

from typing import Any

import gymnasium as gym

from envs.babyai.levels import LEVELS, EmbodiedLevel
from envs.household.config import DisturbanceRates, Verbosity

_ENTRY = "envs.household.env:HouseholdEnv"
RECALL_RATES = DisturbanceRates.none().model_copy(update={"skill_fails": 0.02})
TROUBLED_RATES = DisturbanceRates(
    door_closes=0.01, door_locks=0.006, object_moves=0.02, item_knocked=0.01, skill_fails=0.08, goal_changes=0.005
)
HOUSEHOLDS: dict[str, dict[str, Any]] = {
    "ERecap/Household-v0": {},
    "ERecap/HouseholdQuiet-v0": {"disturbances": DisturbanceRates.none()},
    "ERecap/HouseholdSmall-v0": {"objects": 5, "subgoals": 3},
    "ERecap/HouseholdTroubled-v0": {  # crowded and restless: full boxes, blocked ways, things that are gone, in short episodes
        "cols": 2,
        "objects": 8,
        "boxes": 3,
        "subgoals": 5,
        "kinds": ("bring", "next_to", "inside", "inside", "inside", "unlock"),
        "disturbances": TROUBLED_RATES,
    },
    "ERecap/HouseholdLong-v0": {
        "rows": 3,
        "objects": 8,
        "boxes": 2,
        "doors": 6,
        "subgoals": 12,
        "verbosity": "verbose",
        "max_steps": 1800,
    },
    "ERecap/HouseholdRecall-v0": {
        "rows": 3,
        "objects": 11,
        "boxes": 0,
        "doors": 2,
        "locked_doors": 0,
        "tour": 9,
        "subgoals": 5,
        "kinds": ("bring",),
        "disturbances": RECALL_RATES,
        "max_steps": 1000,
    },
}


def register_all() -> None:
    """Register the households with gymnasium; calling it again changes nothing."""
    for env_id, parameters in HOUSEHOLDS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=_ENTRY, kwargs=parameters)


def make_env(env_id: str, render_mode: str | None = None, max_steps: int | None = None, **parameters: Any) -> gym.Env[Any, Any]:
    """A household or a BabyAI level (by id, or by its short name in ``LEVELS``) with pose, rooms and progress in what it returns.

    Raises ``ValueError`` for an id that is not registered or has no rooms.
    """
    register_all()
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps={max_steps} must be at least 1: leave it out for the environment's own limit")
    env_id = LEVELS.get(env_id, env_id)
    if env_id not in gym.registry:
        raise ValueError(f"environment {env_id!r} is unknown: choose from {', '.join([*HOUSEHOLDS, *LEVELS.values()])}")
    limit = {} if max_steps is None else {"max_steps": max_steps}
    env = gym.make(env_id, render_mode=render_mode, disable_env_checker=True, **limit, **parameters)
    return env if env_id in HOUSEHOLDS else EmbodiedLevel(env)


def verbosity_of(env_id: str) -> Verbosity:
    """The verbosity with which the environment was registered; ``terse`` where nothing is said."""
    verbosity: Verbosity = HOUSEHOLDS.get(env_id, {}).get("verbosity", "terse")
    return verbosity
