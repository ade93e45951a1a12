"""``erecap bench-replans``: rows by reason, sessions that meet the prompts in their order, continuing, and errors."""

import json
from pathlib import Path

import pytest

from benchmarks.comparison.fidelity import Answered, ReplanRow, fidelities
from tests.test_benchmarks_stages import write_run

HELD_OUT = 1_000_000


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two episodes of five replans; the second plan of each cannot be read."""
    return write_run(tmp_path / "recorded", HELD_OUT, unreadable=1)


def specs(model_dir: str) -> list[str]:
    small = f"model={model_dir}&device=cpu&dtype=float32"
    names = ("baseline?", "baseline-session?", "erecap-session?selector=recency&keep=0.5&stages=0-2&")
    return [f"{name}{small}" for name in names]


def measure(invoke, run_dir: Path, model_dir: str, out: Path, *more: object) -> dict:
    command = ("bench-replans", "--data", run_dir, "--backends", ",".join(specs(model_dir)), "--max-new-tokens", 6, "--out", out)
    done = invoke(*command, *more)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "plans at the replans of recorded episodes" in done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def test_only_pruning_changes_plans(invoke, run_dir: Path, model_dir: str, tmp_path: Path):
    """An unpruned session is the baseline at every replan, though it takes the prompts in bit by bit."""
    found = measure(invoke, run_dir, model_dir, tmp_path / "out")
    rows = {(row["backend"].partition("?")[0], row["reason"]): row for row in found["rows"]}
    assert set(rows) == {
        (name, reason) for name in ("baseline", "baseline-session", "erecap-session") for reason in ("all", "start")
    }
    for name in ("baseline", "baseline-session"):
        row = rows[name, "all"]
        assert (row["replans"], row["same_plan"], row["kept_share"]) == (8, 1.0, 1.0)
        assert row["loss_rise"] == pytest.approx(0, abs=1e-4)
    pruned = rows["erecap-session", "all"]
    assert pruned["kept_share"] < 0.95
    assert pruned["loss_rise"] != 0
    assert "| erecap-session" in (tmp_path / "out" / "replans.md").read_text()


def test_a_stopped_run_goes_on_with_the_next_episode(invoke, run_dir: Path, model_dir: str, tmp_path: Path):
    whole = measure(invoke, run_dir, model_dir, tmp_path / "whole")
    measure(invoke, run_dir, model_dir, tmp_path / "out", "--episodes", 1)
    file = tmp_path / "out" / "replans.jsonl"
    first = file.read_bytes()
    file.write_bytes(first + b'{"env_id": "E", "se')  # killed while it wrote
    assert measure(invoke, run_dir, model_dir, tmp_path / "out")["rows"] == whole["rows"]
    assert file.read_bytes().startswith(first)


def test_reasons_and_first_lines_are_told_apart():
    def row(seed: int, reason: str, loss: float, plan: str) -> ReplanRow:
        answered = {
            "a": Answered(loss=1.0, plan="goto hall\ndone", kept_share=1.0),
            "b": Answered(loss=loss, plan=plan, kept_share=0.4),
        }
        return ReplanRow(env_id="E", seed=seed, replan=0, reason=reason, prompt_tokens=9, answered=answered)  # type: ignore[arg-type]

    rows = [
        row(0, "failure", 1.5, "goto hall\ndone"),
        row(1, "failure", 2.0, "goto hall\ndrop"),
        row(1, "goal_changed", 4.0, "drop"),
    ]
    found = {one.reason: one for one in fidelities(rows, ["a", "b"]) if one.backend == "b"}
    assert list(found) == ["all", "failure", "goal_changed"]
    failure = found["failure"]
    assert (failure.replans, failure.loss_rise, failure.same_plan, failure.same_first_line) == (2, 0.75, 0.5, 1.0)
    assert found["goal_changed"].loss_rise == 3.0
    assert found["all"].loss_rise_ci95 == (0.5, 2.0), "an interval over the two episodes"


def test_backends_without_losses_are_refused(invoke, run_dir: Path, tmp_path: Path):
    done = invoke("bench-replans", "--data", run_dir, "--backends", "expert", "--out", tmp_path / "out")
    assert done.exit_code != 0
    with pytest.raises(ValueError, match=r"'expert' runs no model in this process.*leave it out"):
        raise done.exception


def test_rows_of_other_backends_and_runs_without_episodes_are_refused(invoke, run_dir: Path, model_dir: str, tmp_path: Path):
    measure(invoke, run_dir, model_dir, tmp_path / "out", "--episodes", 1)
    small = f"model={model_dir}&device=cpu"
    done = invoke("bench-replans", "--data", run_dir, "--backends", f"baseline?{small}", "--out", tmp_path / "out")
    assert "holds rows of" in str(done.exception)
    assert "no finished episode" in str(invoke("bench-replans", "--data", tmp_path, "--out", tmp_path / "other").exception)
