"""The environments by gymnasium id, and how to make one that an agent can play."""

import importlib
import warnings
from types import ModuleType
from typing import Any

import gymnasium as gym
from minigrid.core.roomgrid import RoomGrid
from minigrid.minigrid_env import MiniGridEnv
from pydantic import BaseModel

from envs.babyai.levels import LEVELS, EmbodiedLevel
from envs.household.config import DisturbanceRates
from envs.household.env import HouseholdEnv
from envs.observation.ansi import MODE
from envs.observation.describe import Verbosity
from envs.observation.text_space import holds_text, outline
from envs.simulators import science_world, search, textworld_express

Env = gym.Env[Any, Any]

_RECALL_RATES = DisturbanceRates.none().model_copy(update={"skill_fails": 0.02})
_TROUBLED_RATES = DisturbanceRates(
    door_closes=0.01, door_locks=0.006, object_moves=0.02, item_knocked=0.01, skill_fails=0.08, goal_changes=0.005
)
_REPLAN_RATES = DisturbanceRates(
    door_closes=0.01, door_locks=0.004, object_moves=0.002, item_knocked=0.003, skill_fails=0.12, goal_changes=0.008
)
HOUSEHOLDS: dict[str, dict[str, Any]] = {
    "ERecap/Household-v0": {},
    "ERecap/HouseholdQuiet-v0": {"disturbances": DisturbanceRates.none().model_dump()},
    "ERecap/HouseholdSmall-v0": {"objects": 5, "subgoals": 3},
    "ERecap/HouseholdTroubled-v0": {  # short episodes with full boxes, blocked ways and things that vanish
        "cols": 2,
        "objects": 8,
        "boxes": 3,
        "subgoals": 5,
        "kinds": ("bring", "next_to", "inside", "inside", "inside", "unlock"),
        "disturbances": _TROUBLED_RATES.model_dump(),
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
        "disturbances": _RECALL_RATES.model_dump(),
        "max_steps": 1000,
    },
    "ERecap/HouseholdReplan-v0": {  # the agent can plan the whole task at once, from an inventory that the house contradicts
        "rows": 3,
        "objects": 12,
        "boxes": 2,
        "boxed": 0.05,
        "doors": 6,
        "subgoals": 12,
        "kinds": ("bring", "next_to", "next_to", "inside", "unlock"),
        "inventory": True,
        "disturbances": _REPLAN_RATES.model_dump(),
        "max_goal_changes": 4,
        "any_goal_changes": True,
        "verbosity": "verbose",
        "max_steps": 2000,
    },
}
"""Parameters of each household by its id, as fields of ``HouseholdConfig``: plain values, so that ``spec.to_json`` works."""

TEXTWORLD_EXPRESS: dict[str, dict[str, Any]] = {
    f"ERecap/TextWorld{name}-v0": {"game": game} for name, game in textworld_express.GAMES.items()
}
"""The kinds of games of TextWorld-Express by their id. They need the extra ``worlds`` and Java."""
TEXTWORLD_SEARCHED: dict[str, dict[str, Any]] = {
    f"ERecap/TextWorld{name}Searched-v0": {"game": game, "expert": "search"}
    for name, game in textworld_express.GAMES.items()
    if game in search.SEARCHES
}
"""The same games with an expert that can be asked in any state, to train planners on."""
SCIENCE_WORLD: dict[str, dict[str, Any]] = {f"ERecap/ScienceWorld-{task}-v0": {"task": task} for task in science_world.TASKS}
"""The tasks of ScienceWorld by their id. They need the extra ``worlds`` and Java."""
_FAMILIES: tuple[tuple[dict[str, dict[str, Any]], str, int | None], ...] = (
    (HOUSEHOLDS, "envs.household.env:HouseholdEnv", None),
    (
        {**TEXTWORLD_EXPRESS, **TEXTWORLD_SEARCHED},
        "envs.simulators.textworld_express:TextWorldExpressEnv",
        textworld_express.MAX_STEPS,
    ),
    (SCIENCE_WORLD, "envs.simulators.science_world:ScienceWorldEnv", science_world.MAX_STEPS),
)
"""Environments by id, what makes them, and the limit of steps that gymnasium sets."""


def register_all() -> None:
    """Register the households and the simulators' worlds with gymnasium; calling it again changes nothing."""
    for env_ids, entry_point, max_steps in _FAMILIES:
        for env_id, parameters in env_ids.items():
            if env_id not in gym.registry:
                gym.register(env_id, entry_point=entry_point, kwargs=parameters, max_episode_steps=max_steps)


def make_env(
    env_id: str, render_mode: str | None = None, max_steps: int | None = None, any_kind: bool = False, **parameters: Any
) -> Env:
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
    any_kind
        Whether to return an environment of another kind too, for a world family of the user's own, instead of refusing it.
    **parameters
        Arguments of the environment's constructor.

    Returns
    -------
    gymnasium.Env
        A household; a level as an ``EmbodiedLevel``; any other environment as ``gymnasium.make`` returns it.

    Raises
    ------
    ValueError
        For an unknown id, a package that cannot be imported, an environment that an agent cannot play, one that cannot be drawn in
        this ``render_mode``, or a bad parameter.
    """
    parameters = {name: value.model_dump() if isinstance(value, BaseModel) else value for name, value in parameters.items()}
    register_all()
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps={max_steps} must be at least 1: leave it out for the environment's own limit")
    name = _registered(LEVELS.get(env_id, env_id))
    on_grid = _is_gridworld(name)
    if max_steps is not None:
        parameters["max_steps" if on_grid else "max_episode_steps"] = max_steps
    if render_mode is not None:
        _refuse_unless_drawn(name, render_mode, env_id)
        parameters["render_mode"] = render_mode
    env = _make_gridworld(name, parameters) if on_grid else gym.make(name, **parameters)
    if not any_kind:
        _refuse_unless_playable(env, env_id)
    return EmbodiedLevel(env) if _is_level(env) else env


def _make_gridworld(name: str, parameters: dict[str, Any]) -> Env:
    """Make a gridworld without gymnasium's checker, which watches the first steps of other environments: our tests run its checks.

    Only here are warnings filtered: with each filter Python forgets which warnings it has shown, and a user's environment would be
    warned of the same thing in every episode.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*render_mode='{MODE}' that is not in the possible")  # ``EmbodiedLevel`` draws it
        env: Env = gym.make(name, disable_env_checker=True, **parameters)
    return env


def verbosity_of(env_id: str) -> Verbosity:
    """Return the verbosity with which an environment was registered; ``terse`` where it has none."""
    verbosity: Verbosity = HOUSEHOLDS.get(env_id.rpartition(":")[2], {}).get("verbosity", "terse")
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
    known = ", ".join([*HOUSEHOLDS, *LEVELS.values(), *TEXTWORLD_EXPRESS])
    raise ValueError(
        f"environment {env_id!r} is unknown: choose from {known}, a task of ScienceWorld such as {next(iter(SCIENCE_WORLD))}, "
        "or name your own as my_package:Name-v0"
    )


def _import(module: str, env_id: str) -> ModuleType:
    """Import a module of an environment; raise ``ValueError`` where that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"module {module!r} of environment {env_id!r} cannot be imported ({error}): install its package, or add the "
            "folder that holds it to PYTHONPATH"
        ) from error


def _creator(name: str) -> Any:
    """Return what makes the environment: a class, or a function."""
    creator: Any = gym.registry[name].entry_point
    if not isinstance(creator, str):
        return creator
    module, _, attribute = creator.partition(":")
    return getattr(_import(module, name), attribute)


def _is_gridworld(name: str) -> bool:
    """Tell whether the id stands for one of minigrid's environments, whose step limit is a constructor's argument."""
    creator = _creator(name)
    return isinstance(creator, type) and issubclass(creator, MiniGridEnv)


def _is_level(env: Env) -> bool:
    """Tell whether the environment is a level of minigrid's with rooms: no household, and no text."""
    return _is_level_class(type(env.unwrapped)) and not holds_text(env.observation_space)


def _is_level_class(creator: Any) -> bool:
    """Tell whether this is a class of minigrid's levels with rooms, and no household."""
    return isinstance(creator, type) and issubclass(creator, RoomGrid) and not issubclass(creator, HouseholdEnv)


def _refuse_unless_drawn(name: str, render_mode: str, env_id: str) -> None:
    """Raise ``ValueError`` for an environment whose class does not list the mode; what a function makes is not known before."""
    creator = _creator(name)
    if not (isinstance(creator, type) and issubclass(creator, gym.Env)):
        return
    modes = creator.metadata.get("render_modes", [])
    modes = [*modes, MODE] if _is_level_class(creator) else modes
    if render_mode not in modes:
        raise ValueError(
            f"environment {env_id!r} cannot be drawn as {render_mode!r}, its render modes are {modes}: list the mode in "
            f"{creator.__name__}.metadata['render_modes'], take render_mode in the constructor and write render(); or play it "
            "without pictures"
        )


def _refuse_unless_playable(env: Env, env_id: str) -> None:
    """Close an environment that agents cannot play and raise ``ValueError``."""
    base = env.unwrapped
    if isinstance(base, RoomGrid) or holds_text(env.observation_space):
        return
    env.close()
    raise ValueError(
        f"environment {env_id!r} cannot be played: its observation space {outline(env.observation_space)} holds no text, and "
        f"{type(base).__name__} has no rooms: use a level that is built on minigrid's RoomGrid, an environment that observes a "
        f"Text space or a Dict with a Text entry, or one of {', '.join([*HOUSEHOLDS, *LEVELS])}"
    )
