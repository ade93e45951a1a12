"""Agents: the loop that observes, replans and acts, the worlds it plays in, and what it records."""

import envs  # noqa: F401  # isort: split  # first, so that the packages below it are imported without their banners
from agents.clock import Clock
from agents.expert_backend import ExpertBackend
from agents.families import FAMILIES, Family, make_world, register_family
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.pool import LocalPool, Pool
from agents.protocols import FrameSink, Sink, WorldBackend
from agents.recorded_prompts import RecordedPrompt
from agents.records import EpisodeRecord, PlannerCall, Record, StepRecord, TranscriptRecord
from agents.runner import run_jobs
from agents.world import OK, Call, Outcome, Progress, Tick, World, failed

__all__ = [
    "FAMILIES",
    "OK",
    "AgentConfig",
    "Call",
    "Clock",
    "EpisodeJob",
    "EpisodeRecord",
    "ExpertBackend",
    "Family",
    "FrameSink",
    "LocalPool",
    "Outcome",
    "PlannerCall",
    "Pool",
    "Progress",
    "Record",
    "RecordedPrompt",
    "Sink",
    "StepRecord",
    "Tick",
    "TranscriptRecord",
    "World",
    "WorldBackend",
    "failed",
    "make_world",
    "register_family",
    "run_episode",
    "run_jobs",
]
