"""Environments: the household, BabyAI's levels, their text, and what disturbs them."""

from envs.babyai import LEVELS, EmbodiedLevel
from envs.config import DisturbanceRates, HouseholdConfig, Verbosity
from envs.describe import Mention, Report, describe, task_text
from envs.household import EpisodeOverError, HouseholdEnv
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
