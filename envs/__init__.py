"""Environments: the household, BabyAI's levels, their text, and what disturbs them."""

from envs.babyai.levels import LEVELS, EmbodiedLevel
from envs.household.config import DisturbanceRates, HouseholdConfig, Verbosity
from envs.household.env import EpisodeOverError, HouseholdEnv
from envs.observation.describe import Mention, Report, describe, task_text
from envs.registration import HOUSEHOLDS, make_env, register_all, verbosity_of

register_all()

__all__ = [
    "HOUSEHOLDS",
    "LEVELS",
    "DisturbanceRates",
    "EmbodiedLevel",
    "EpisodeOverError",
    "HouseholdConfig",
    "HouseholdEnv",
    "Mention",
    "Report",
    "Verbosity",
    "describe",
    "make_env",
    "register_all",
    "task_text",
    "verbosity_of",
]
