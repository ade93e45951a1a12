"""Environments: households with disturbances, BabyAI's levels, text environments, simulators, and the text of an observation."""

import envs.quiet  # noqa: F401  # isort: split  # before anything that imports gymnasium
from envs.babyai.levels import LEVELS, EmbodiedLevel
from envs.household.config import DisturbanceRates, HouseholdConfig
from envs.household.env import HouseholdEnv
from envs.observation.describe import Mention, News, Report, Verbosity, describe, note, task_text
from envs.observation.episode import EpisodeOverError
from envs.observation.text_space import holds_text
from envs.registration import HOUSEHOLDS, SCIENCE_WORLD, TEXTWORLD_EXPRESS, make_env, register_all, verbosity_of
from envs.seeds import HELD_OUT

register_all()

__all__ = [
    "HELD_OUT",
    "HOUSEHOLDS",
    "LEVELS",
    "SCIENCE_WORLD",
    "TEXTWORLD_EXPRESS",
    "DisturbanceRates",
    "EmbodiedLevel",
    "EpisodeOverError",
    "HouseholdConfig",
    "HouseholdEnv",
    "Mention",
    "News",
    "Report",
    "Verbosity",
    "describe",
    "holds_text",
    "make_env",
    "note",
    "register_all",
    "task_text",
    "verbosity_of",
]
