"""The environments by gymnasium id, and how to make one that an agent can play."""

import importlib
from types import ModuleType
from typing import Any

import gymnasium as gym
from minigrid.core.roomgrid import RoomGrid
from minigrid.minigrid_env import MiniGridEnv

from envs.babyai.levels import LEVELS, EmbodiedLevel
from envs.household.config import DisturbanceRates
from envs.household.env import HouseholdEnv
from envs.observation.describe import Verbosity
from envs.observation.text_space import holds_text

Env = gym.Env[Any, Any]

_ENTRY = "envs.household.env:HouseholdEnv"
_RECALL_RATES = DisturbanceRates.none().model_copy(update={"skill_fails": 0.02})
_TROUBLED_RATES = DisturbanceRates(
    door_closes=0.01, door_locks=0.006, object_moves=0.02, item_knocked=0.01, skill_fails=0.08, goal_changes=0.005
)
HOUSEHOLDS: dict[str, dict[str, Any]] = {
    "ERecap/Household-v0": {},
    "ERecap/HouseholdQuiet-v0": {"disturbances": DisturbanceRates.none()},
    "ERecap/HouseholdSmall-v0": {"objects": 5, "subgoals": 3},
    "ERecap/HouseholdTroubled-v0": {  # short episodes with full boxes, blocked ways and things that vanish
        "cols": 2,
        "objects": 8,
        "boxes": 3,
        "subgoals": 5,
        "kinds": ("bring", "next_to", "inside", "inside", "inside", "unlock"),
        "disturbances": _TROUBLED_RATES,
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
        "disturbances": _RECALL_RATES,
        "max_steps": 1000,
    },
}
"""Parameters of each household by its id, as fields of ``HouseholdConfig``."""


def register_all() -> None:
    """Register the households with gymnasium; calling it again changes nothing."""
    for env_id, parameters in HOUSEHOLDS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=_ENTRY, kwargs=parameters)


def make_env(env_id: str, render_mode: str | None = None, max_steps: int | None = None, **parameters: Any) -> Env:
    """Make an environment that an agent can play.

    These are the households, BabyAI's levels, any minigrid level on ``RoomGrid``, and any environment with text observations.

    Parameters
    ----------
    env_id
        A gymnasium id, a short name in ``LEVELS``, or ``my_package:Name-v0`` for an environment that importing ``my_package``
        registers.
    render_mode
        As in ``gymnasium.make``.
    max_steps
        Environment steps after which an episode is truncated; ``None`` for the environment's own limit.
    **parameters
        Arguments of the environment's constructor.

    Returns
    -------
    gymnasium.Env
        A household; a level as an ``EmbodiedLevel``; a text environment as ``gymnasium.make`` returns it.

    Raises
    ------
    ValueError
        For an unknown id, a package that cannot be imported, an environment that an agent cannot play, or a bad parameter.
    """
    register_all()
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps={max_steps} must be at least 1: leave it out for the environment's own limit")
    name = _registered(LEVELS.get(env_id, env_id))
    on_grid = _is_gridworld(name)
    if max_steps is not None:
        parameters["max_steps" if on_grid else "max_episode_steps"] = max_steps
    if render_mode is not None:
        parameters["render_mode"] = render_mode
    # Gymnasium's checker watches the first steps of a user's environment; the gridworlds pass all its checks in our tests.
    return _playable(gym.make(name, disable_env_checker=True if on_grid else None, **parameters), env_id)


def verbosity_of(env_id: str) -> Verbosity:
    """Return the verbosity with which an environment was registered; ``terse`` where it has none."""
    verbosity: Verbosity = HOUSEHOLDS.get(env_id, {}).get("verbosity", "terse")
    return verbosity


def _registered(env_id: str) -> str:
    """Return the id without its package, which is imported so that it registers its environments."""
    package, _, name = env_id.rpartition(":")
    if package:
        _import(package, env_id)
    if name in gym.registry:
        return name
    if package:
        raise ValueError(
            f"environment {env_id!r} is unknown: importing {package} registers no {name!r}; correct the id, or call "
            f"gymnasium.register in {package}"
        )
    known = ", ".join([*HOUSEHOLDS, *LEVELS.values()])
    raise ValueError(f"environment {env_id!r} is unknown: choose from {known}, or name your own as my_package:Name-v0")


def _import(module: str, env_id: str) -> ModuleType:
    """Import a module of an environment; raise ``ValueError`` where that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"module {module!r} of environment {env_id!r} cannot be imported ({error}): install its package, or add the "
            "folder that holds it to PYTHONPATH"
        ) from error


def _is_gridworld(name: str) -> bool:
    """Tell whether the id stands for one of minigrid's environments, whose step limit is a constructor's argument."""
    creator: Any = gym.registry[name].entry_point
    if isinstance(creator, str):
        module, _, attribute = creator.partition(":")
        creator = getattr(_import(module, name), attribute)
    return isinstance(creator, type) and issubclass(creator, MiniGridEnv)


def _playable(env: Env, env_id: str) -> Env:
    """Return the environment as an agent plays it; raise ``ValueError`` for one that it cannot play."""
    base = env.unwrapped
    if isinstance(base, HouseholdEnv) or holds_text(env.observation_space):
        return env
    if isinstance(base, RoomGrid):
        return EmbodiedLevel(env)
    env.close()
    raise ValueError(
        f"environment {env_id!r} cannot be played: its observation space {_outline(env.observation_space)} holds no text, and "
        f"{type(base).__name__} has no rooms: use a level that is built on minigrid's RoomGrid, an environment that observes a "
        f"Text space or a Dict with a Text entry, or one of {', '.join([*HOUSEHOLDS, *LEVELS])}"
    )


def _outline(space: gym.Space[Any]) -> str:
    """Name a space, and the entries of a ``Dict``."""
    if not isinstance(space, gym.spaces.Dict):
        return type(space).__name__
    return f"Dict({', '.join(f'{key}: {type(entry).__name__}' for key, entry in space.items())})"
