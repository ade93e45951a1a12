"""What ``envs`` and ``planner`` export: users import these names from the package roots, so that none may go unnoticed."""

import importlib

import pytest

PUBLIC = {
    "envs": {
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
        "holds_text",
        "make_env",
        "register_all",
        "task_text",
        "verbosity_of",
    },
    "planner": {
        "SKILLS",
        "TRIMS",
        "BackendSpec",
        "Entry",
        "EntryKind",
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
        "Role",
        "Sampling",
        "Segment",
        "SkillCall",
        "SkillSpec",
        "Trim",
        "build_prompt",
        "parse_plan",
        "parse_skill",
        "system_text",
    },
}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_package_exports_what_its_users_need(package):
    module = importlib.import_module(package)
    assert set(module.__all__) == PUBLIC[package]
    assert len(module.__all__) == len(PUBLIC[package])
    assert all(hasattr(module, name) for name in PUBLIC[package])
