"""What the package roots export: the names that users may rely on."""

import importlib

import pytest

PUBLIC = {
    "planner": {
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
        "SKILLS",
        "Sampling",
        "Segment",
        "SkillCall",
        "SkillSpec",
        "TRIMS",
        "Trim",
        "build_prompt",
        "parse_plan",
        "parse_skill",
        "system_text",
    },
    "envs": {
        "DisturbanceRates",
        "EmbodiedLevel",
        "EpisodeOverError",
        "HOUSEHOLDS",
        "HouseholdConfig",
        "HouseholdEnv",
        "LEVELS",
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
    "erecap": {
        "BudgetError",
        "ChatTokenizer",
        "DecodeOptions",
        "KeptTokens",
        "LoadedModel",
        "ModelIdentity",
        "PrefillResult",
        "PreparedSelector",
        "PruneSchedule",
        "PruneStage",
        "PruneStats",
        "PrunedPrefill",
        "SELECTORS",
        "Selector",
        "SelectorContext",
        "TokenPruner",
        "TokenizedPrompt",
        "decode",
        "identify",
        "load_model",
        "load_pruner",
        "make_selector",
        "prefill",
        "pruned",
    },
    "agents": {
        "AgentConfig",
        "Call",
        "Clock",
        "EpisodeJob",
        "EpisodeRecord",
        "ExpertBackend",
        "FAMILIES",
        "Family",
        "FrameSink",
        "LocalPool",
        "OK",
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
    },
}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_root_exports_what_users_need(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package])
    assert all(hasattr(module, name) for name in PUBLIC[package])


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("erecap.schedule", ("PruneSchedule", "PruneStage")),
        ("erecap.selectors", ("SELECTORS", "RecencySelector", "SelectorContext", "make_selector")),
        ("erecap.backend", ("BACKENDS", "make_backend")),
        ("agents.job", ("EpisodeJob",)),
        ("agents.loop", ("AgentConfig", "run_episode")),
        ("envs.household", ("HouseholdEnv",)),
    ],
)
def test_paths_that_the_documents_name_go_on_working(module, names):
    assert all(hasattr(importlib.import_module(module), name) for name in names)
