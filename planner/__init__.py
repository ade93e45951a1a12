"""The planner: history, prompt, plans, when to replan, and the protocol of its backends. Standard library only."""

from planner.backend import (
    BatchBackend,
    Generation,
    LineCallback,
    ObservingBackend,
    PlannerBackend,
    PlanRequest,
    PromptTooLongError,
    Sampling,
    StatefulBackend,
    cut_note,
)
from planner.history import Entry, EntryKind, History
from planner.horizon import HORIZONS, Horizon
from planner.plan import Plan, PlanParseError, first_skill, parse_plan, parse_skill
from planner.policy import LoopState, ReplanPolicy, ReplanReason
from planner.prompt import Prompt, Role, Segment, before_observation, build_prompt, system_text
from planner.skills import SKILLS, SkillCall, SkillSpec
from planner.spec import BackendSpec
from planner.trimming import TRIMS, Trim

__all__ = [
    "HORIZONS",
    "SKILLS",
    "TRIMS",
    "BackendSpec",
    "BatchBackend",
    "Entry",
    "EntryKind",
    "Generation",
    "History",
    "Horizon",
    "LineCallback",
    "LoopState",
    "ObservingBackend",
    "Plan",
    "PlanParseError",
    "PlanRequest",
    "PlannerBackend",
    "Prompt",
    "PromptTooLongError",
    "ReplanPolicy",
    "ReplanReason",
    "Role",
    "Sampling",
    "Segment",
    "SkillCall",
    "SkillSpec",
    "StatefulBackend",
    "Trim",
    "before_observation",
    "build_prompt",
    "cut_note",
    "first_skill",
    "parse_plan",
    "parse_skill",
    "system_text",
]
