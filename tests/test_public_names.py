"""What the package roots export: names that users import, which go on working."""

import importlib

import pytest

PUBLIC = {
    "erecap": {
        "SELECTORS",
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
}


@pytest.mark.parametrize("package", PUBLIC)
def test_roots_export_what_users_need(package):
    module = importlib.import_module(package)
    assert set(module.__all__) == PUBLIC[package]
    assert all(hasattr(module, name) for name in PUBLIC[package])
