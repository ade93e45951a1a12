"""The planner: history, prompt, plans, when to replan, and the protocol that its backends follow. Standard library only."""

from planner.backend import Generation, LineCallback, PlannerBackend, PromptTooLongError, Sampling
from planner.history import Entry, History
from planner.plan import Plan, PlanParseError, parse_plan, parse_skill
from planner.policy import LoopState, ReplanPolicy, ReplanReason
from planner.prompt import Prompt, Segment, build_prompt, system_text
from planner.skills import SKILLS, SkillCall, SkillSpec
from planner.spec import BackendSpec

__all__ = [
    "SKILLS",
    "BackendSpec",
    "Entry",
    "Generation",
    "History",
    "LineCallback",
    "LoopState",
    "Plan",
    "PlanParseError",
    "PlannerBackend",
    "Prompt",
    "PromptTooLongError",
    "ReplanPolicy",
    "ReplanReason",
    "Sampling",
    "Segment",
    "SkillCall",
    "SkillSpec",
    "build_prompt",
    "parse_plan",
    "parse_skill",
    "system_text",
]
