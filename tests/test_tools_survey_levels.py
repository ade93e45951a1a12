"""The survey of minigrid's levels: it goes on where it was stopped, and writes its table into a document."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "survey_levels.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("survey_levels", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_survey_goes_on_behind_a_torn_line_and_plays_nothing_twice(tool, tmp_path):
    path = tmp_path / "levels.jsonl"
    tool.survey(path, 1, "BabyAI-GoToRedBallNoDists", float("inf"))
    first = path.read_text()
    path.write_text(first + '{"level": "Baby')
    tool.survey(path, 2, "BabyAI-GoToRedBallNoDists", float("inf"))
    assert path.read_text().startswith(first)
    rows = tool.read(path)
    assert [(row["player"], row["seed"] - tool.FIRST_SEED) for row in rows] == [
        ("expert", 0),
        ("bot", 0),
        ("expert", 1),
        ("bot", 1),
    ]
    assert all(row["success"] for row in rows)


def test_the_table_replaces_what_follows_the_mark(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "levels", lambda: ["BabyAI-GoToLocal-v0", "MiniGrid-Empty-5x5-v0"])
    row = {"level": "BabyAI-GoToLocal-v0", "player": "expert", "seed": 1, "success": True, "steps": 7, "end": "success"}
    document = tmp_path / "levels.md"
    document.write_text(f"# Levels\n\n{tool.MARK}\nold\n")
    tool.write_into(document, tool.table([row, row | {"success": False}]))
    text = document.read_text()
    assert text.startswith(f"# Levels\n\n{tool.MARK}\n")
    assert "| BabyAI-GoToLocal-v0 | 1 of 2 | 7 | - |" in text
    assert "(1): MiniGrid-Empty-5x5-v0." in text
    assert "old" not in text


def test_a_bot_that_hangs_is_stopped(tool):
    def hang():
        while True:
            pass

    with pytest.raises(tool.BotHangsError, match="processor time"), tool.cpu_limit(0.05):
        hang()


def test_every_level_of_the_package_is_in_the_document(tool):
    text = (TOOL.parents[1] / "docs" / "levels.md").read_text(encoding="utf-8")
    assert [level for level in tool.levels() if level not in text] == []
