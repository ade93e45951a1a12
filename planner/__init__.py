"""The planner: history, prompt, plans, when to replan, and the protocol of its backends. Standard library only."""

from planner.backend import (
    BatchBackend,
    FormattedBackend,
    Generation,
    LineCallback,
    ObservingBackend,
    PlannerBackend,
    PlanRequest,
    PromptTooLongError,
    Sampling,
    StatefulBackend,
    cut_note,
    format_of,
)
from planner.grammar import FORMATS, AnswerFormat, PlanGrammar
from planner.history import Entry, EntryKind, History
from planner.horizon import HORIZONS, Horizon
from planner.plan import Plan, PlanParseError, first_skill, parse_plan, parse_skill
from planner.policy import LoopState, ReplanPolicy, ReplanReason
from planner.prompt import Prompt, Role, Segment, before_observation, build_prompt, skill_guide, system_text
from planner.skills import SKILLS, SkillCall, SkillSpec
from planner.spec import BackendSpec
from planner.trimming import TRIMS, Trim

__all__ = [
    "FORMATS",
    "HORIZONS",
    "SKILLS",
    "TRIMS",
    "AnswerFormat",
    "BackendSpec",
    "BatchBackend",
    "Entry",
    "EntryKind",
    "FormattedBackend",
    "Generation",
    "History",
    "Horizon",
    "LineCallback",
    "LoopState",
    "ObservingBackend",
    "Plan",
    "PlanGrammar",
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
    "format_of",
    "parse_plan",
    "parse_skill",
    "skill_guide",
    "system_text",
]
