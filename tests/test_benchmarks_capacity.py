"""``erecap capacity``: the table and files, recorded episodes as work, and errors."""

import json
from pathlib import Path

import pytest

from agents.records import EpisodeRecord, PlannerCall, StepRecord
from benchmarks.comparison.capacity import CapacityReport, is_unpruned, recorded_episodes
from benchmarks.runs.records import RunRecords
from planner import Generation

SMALL = ("--cost", "planner-cpu", "--context", 600, "--protected", 100, "--kv-budget", "12MB", "--every", 2, "--p95", 0.12)
SMALL_KEPT = ("--keep", "0.7", "--stages", "0-2")
END = {
    "success": True, "subgoals_done": 1, "subgoals_total": 1, "env_steps": 2, "max_steps": 9, "replans": 3, "skills": 3,
    "parse_errors": 0, "reward": 1.0, "end": "success", "wall_s": 0.1, "system": "You plan.",
}  # fmt: skip
CALL = {"env_step": 0, "reason": "start", "backend_s": 0.1, "overhead_s": 0.1, "replan_s": 0.1, "history_entries": 0}
STEP = {
    "skill": "explore", "succeeded": True, "outcome": "ok", "env_steps": 1, "reward": 0.0, "place": None, "disturbances": [],
    "subgoals_done": 0, "subgoals_total": 1,
}  # fmt: skip
PROMPTS = ((100, 0), (160, 110), (240, 0))
"""Tokens of each prompt, and those reused."""


def write_run(path: Path, layer_share: dict[str, float]) -> Path:
    """A run of some backends, one episode each: three replans, after which the agent carries out 0, 1 and 2 lines."""
    lines = []
    for name, share in layer_share.items():
        key = {"backend": name, "env_id": "E", "seed": 1_000_000}
        for replan, (tokens, reused) in enumerate(PROMPTS):
            made = Generation(
                "done", prompt_tokens=tokens, new_tokens=12, layer_tokens=(tokens, int(tokens * share)) if share else (),
                reused_tokens=reused, drafts=((4, 3), (5, 5)), ttft_s=0.1, first_skill_s=0.1, decode_s=0.1,
            )  # fmt: skip
            lines.append(PlannerCall(**key, **CALL, replan=replan, generation=made).model_dump_json())
            lines += [StepRecord(**key, **STEP, replan=replan).model_dump_json()] * replan
        lines.append(EpisodeRecord(**key, **END).model_dump_json())
    path.mkdir()
    (path / "steps.jsonl").write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", {"expert": 0.0, "erecap-session?keep=0.5": 0.5, "baseline-session": 1.0})


def last_line(done) -> dict:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def test_the_files_hold_what_the_table_says(invoke, tmp_path: Path):
    done = invoke("capacity", *SMALL, *SMALL_KEPT, "--out", tmp_path / "c")
    last = last_line(done)
    assert "MODELLED, not measured" in done.stdout
    report = CapacityReport.model_validate_json((tmp_path / "c" / "capacity.json").read_text())
    assert report.complete
    assert report.basis == "measured"
    baseline, pruned = report.backends
    assert [one.backend for one in report.backends] == ["baseline-session", "erecap-session?keep=0.7&stages=0-2"]
    assert baseline.kv_bytes == (600 + 60) * 8 * 2 * 64 * 4  # one KV head of 64, float32
    assert baseline.agents_by_memory == 12_000_000 // baseline.kv_bytes == 4
    assert pruned.kv_bytes < baseline.kv_bytes
    assert pruned.agents >= baseline.agents >= 1
    assert [point.agents for point in baseline.curve] == [point.agents for point in pruned.curve]
    assert all(one.at.p95_s <= 0.12 for one in report.backends)
    assert last["backends"][0]["agents"] == baseline.agents
    assert (tmp_path / "c" / "capacity.md").read_text().count("\n| ") == 3
    assert (tmp_path / "c" / "capacity.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "c" / ".lock").exists()


def test_recorded_replans_become_work(run_dir: Path):
    records = RunRecords.read(run_dir / "steps.jsonl").backends
    (episode,) = recorded_episodes(records["erecap-session?keep=0.5"], 4, skill_s=3.0, protected=30)
    assert [replan.new_tokens for replan in episode] == [100, 50, 240 - 160 - 12]
    assert [replan.protected_tokens for replan in episode] == [100, 80, 98]
    assert [replan.acting_s for replan in episode] == [0.0, 3.0, 6.0]
    assert episode[1].layer_tokens == (160, 160, 80, 80)
    assert (episode[0].passes, episode[0].drafted_tokens, episode[0].answer_tokens) == (2, 9, 12)
    assert not is_unpruned([episode])
    assert is_unpruned(recorded_episodes(records["baseline-session"], 4, 3.0, 30))
    assert recorded_episodes(records["expert"], 4, 3.0, 30) == []


def test_a_recorded_run_is_modelled_with_the_unpruned_backend_first(invoke, run_dir: Path):
    done = invoke("capacity", "--cost", "planner-cpu", "--run", run_dir, "--kv-budget", "1MB", "--keep", "0.7", "--protected", 20)
    names = [one["backend"] for one in last_line(done)["backends"]]
    assert names == ["baseline-session", "erecap-session?keep=0.5", "erecap-session?keep=0.7 (by schedule)"]
    assert "with the token counts of the planner that played there" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kv-budget", "forty"), "--kv-budget 'forty' is not a number of bytes"),
        (("--keep", "most"), "--keep 'most' must be numbers"),
        (("--keep", "1.5"), r"keep=1.5 must be in \(0, 1\]"),
        (("--stages", "0-40"), "a stage after layer 40 does not fit a model of 28 layers"),
        (("--keep", "", "--stages", "0-5"), "--stages 0-5 without a keep ratio"),
        (("--p95", "0"), "--p95 0.0 must be a positive finite number"),
        (("--batch", "0"), "--batch 0 must be at least 1"),
        (("--context", "0"), "context=0 must be at least 1"),
        (("--context", "100"), "must not fall"),
        (("--cost", "qwen3"), "cost model 'qwen3' is no file and none of the bundled ones"),
        (("--shape", "llama3-8b"), "the model named has 32 layers of width 4096"),
        (("--shape", "qwen2-7b", "--model", "x"), "--shape and --model both name the model"),
        (("--run", "nowhere"), "'nowhere' holds no steps.jsonl"),
        (("--run", "nowhere", "--new", "3"), "--new and --run both say what the agents do"),
        (("--skill-seconds", "3"), "--skill-seconds is for recorded plans"),
    ],
)
def test_what_cannot_be_modelled_is_refused(invoke, arguments, message):
    done = invoke("capacity", *arguments)
    assert done.exit_code != 0
    with pytest.raises(ValueError, match=message):
        raise done.exception


def test_a_run_without_tokens_by_layer_is_refused(invoke, tmp_path: Path):
    done = invoke("capacity", "--run", write_run(tmp_path / "expert", {"expert": 0.0}))
    assert "holds no finished episode of a backend that tells its tokens by layer" in str(done.exception)


def test_what_was_modelled_before_ctrl_c_is_kept(invoke, tmp_path: Path, monkeypatch):
    from benchmarks.commands import capacity_study

    find = capacity_study.find_capacity

    def interrupted(name, *rest):
        if name != "baseline-session":
            raise KeyboardInterrupt
        return find(name, *rest)

    monkeypatch.setattr(capacity_study, "find_capacity", interrupted)
    done = invoke("capacity", *SMALL, *SMALL_KEPT, "--out", tmp_path / "c")
    assert done.exit_code == 130
    report = CapacityReport.model_validate_json((tmp_path / "c" / "capacity.json").read_text())
    assert (report.complete, [one.backend for one in report.backends]) == (False, ["baseline-session"])
    assert "(unfinished)" in (tmp_path / "c" / "capacity.md").read_text()
