"""Run directories of the records' first form: they are read as if they had been written today."""

import json

import pytest
from pydantic import ValidationError

from agents.records import RECORD, EpisodeRecord, PlannerCall, StepRecord
from benchmarks.runs.records import RunRecords
from planner import History, build_prompt, system_text

KEY = {"backend": "erecap?keep=0.7", "env_id": "ERecap/HouseholdSmall-v0", "seed": 1000000}
TEXTS = [("task", "Task: 1. open red door."), ("observation", "Rooms: garage. Goal: open red door."), ("plan", "explore")]
CALL = KEY | {
    "kind": "planner_call", "replan": 0, "env_step": 0, "reason": "start", "history_entries": 2, "prompt_tokens": 120,
    "stage_tokens": [90, 70], "layer_tokens": [120, 120, 90, 70], "kept_share": 0.8333333, "dropped_tokens": 50, "reused_tokens": 0,
    "new_tokens": 3, "ttft_s": 0.02, "decode_s": 0.01, "tpot_s": 0.005, "first_skill_s": 0.03, "backend_s": 0.04,
    "overhead_s": 0.001, "replan_s": 0.041, "kv_bytes": 4096, "peak_memory_bytes": 0, "plan_text": "explore", "parse_errors": 0,
    "parse_error": None, "schedule": "0-1@0.7", "budget_s": None, "predicted_s": None, "budget_met": None,
}  # fmt: skip
STEP = KEY | {
    "kind": "step", "replan": 0, "skill": "explore", "succeeded": True, "outcome": "ok", "env_steps": 2, "reward": 0.0,
    "room": "garage", "disturbances": [], "subgoals_done": 0, "subgoals_total": 3,
}  # fmt: skip
END = KEY | {
    "kind": "episode", "success": True, "subgoals_done": 3, "subgoals_total": 3, "env_steps": 104, "max_steps": 600, "replans": 1,
    "skills": 1, "parse_errors": 0, "reward": 1.0, "end": "success", "wall_s": 0.2,
}  # fmt: skip


@pytest.fixture
def old_run(tmp_path):
    transcript = [KEY | {"kind": "transcript", "index": i, "entry": kind, "text": text} for i, (kind, text) in enumerate(TEXTS)]
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in [*transcript, CALL, STEP, END]))
    return path


def test_a_planner_call_holds_its_generation():
    call = RECORD.validate_python(CALL)
    assert isinstance(call, PlannerCall)
    made = call.generation
    assert (made.text, made.prompt_tokens, made.total_s, made.schedule) == ("explore", 120, 0.04, "0-1@0.7")
    assert (made.kept_share, made.dropped_tokens, made.tpot_s) == (pytest.approx(0.8333333), 50, 0.005)


def test_a_draft_was_the_rest_as_it_was_read():
    today = RECORD.validate_python(CALL).model_dump(mode="json")
    del today["draft"]
    assert RECORD.validate_python(today | {"rest": ["drop", "explore"]}).draft == "drop\nexplore"
    assert RECORD.validate_python(today | {"rest": ["drop"], "draft": "2. drop"}).draft == "2. drop"


def test_a_step_names_its_place():
    step = RECORD.validate_python(STEP)
    assert isinstance(step, StepRecord)
    assert step.place == "garage"


def test_an_episode_had_the_system_text_of_the_gridworlds():
    end = RECORD.validate_python(END)
    assert isinstance(end, EpisodeRecord)
    assert end.system is None


def test_the_prompts_are_rebuilt(old_run):
    found = RunRecords.read(old_run)
    (prompt,) = found.prompts(KEY["backend"])
    history = History().append(*TEXTS[0]).append(*TEXTS[1])
    assert prompt.prompt == build_prompt(history)
    assert prompt.prompt.segments[0].text == system_text()
    assert (prompt.prompt_tokens, prompt.answer) == (120, "explore")


@pytest.mark.parametrize("record", [CALL, STEP, END])
def test_an_upgraded_record_is_written_in_todays_form(record):
    read = RECORD.validate_python(record)
    assert RECORD.validate_json(read.model_dump_json()) == read
    assert not {"plan_text", "room", "kept_share"} & set(json.loads(read.model_dump_json()))


@pytest.mark.parametrize("record", [CALL, STEP])
def test_an_unknown_field_is_refused_in_either_form(record):
    with pytest.raises(ValidationError, match="nonsense"):
        RECORD.validate_python(record | {"nonsense": 1})
