"""The tables of finished runs in a document, and the command that writes them."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from benchmarks.comparison.finished import kept_directories, read_runs
from benchmarks.comparison.schema import Summary
from benchmarks.reports.made_by import command_line, facts
from benchmarks.reports.results_page import END, START, fill_page
from benchmarks.runs.provenance import RunConfig

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "suites"
LENGTH = {"p50": 8.0, "p90": 12.5, "max": 20}
REPLANS = {
    "horizon": "task",
    "reasons": {"start": 0.1, "failure": 0.5, "plan_end": 0.4},
    "forced": 0.625,
    "plan_lines": LENGTH,
    "plan_tokens": LENGTH,
    "reuse": {
        "replans": 7, "distance_p50": 2, "distance_mean": 2.5,
        "lines_p50": 0.8, "lines_mean": 0.75, "words_p50": 0.9, "words_mean": 0.85,
    },
    "recovery": {"replans": 7, "recovered": 0.875, "replans_p50": 2, "env_steps_p50": 31},
    "decode_share": 0.35,
    "last_prompt_p50": 6100,
    "last_prompt_long": 0.25,
    "repeated": 0.05,
    "forbidden": 3,
}  # fmt: skip
TOKENS, TIMES = {"p50": 4000, "p95": 6000, "max": 8100}, {"p50": 0.1, "p95": 0.2}
BACKEND = {
    "episodes": 20, "success_rate": 0.9, "success_ci95": [0.7, 0.97], "subgoal_progress": 0.95, "spl": 0.85, "replans_mean": 12,
    "prompt_tokens": TOKENS, "kept_share": 0.41, "dropped_tokens": TOKENS, "ttft_s": TIMES, "replan_s": TIMES, "overhead_s": TIMES,
    "kv_bytes": {"p50": 2**20, "max": 2**21}, "parse_errors": 0, "by_env": {"E-v0": {"episodes": 20, "success_rate": 0.9}},
}  # fmt: skip
PAIRED = {
    "episodes": 20, "success_diff": -0.05, "success_diff_ci95": [-0.15, 0.05], "spl_diff": None, "spl_diff_ci95": None,
    "prompts": 60, "ttft_speedup_p50": 2.31, "replan_speedup_p50": 1.42, "ceiling_p50": 2.47, "of_ceiling_p50": 0.93,
}  # fmt: skip
PRUNED = "erecap?keep=0.7"
CONFIG = {
    "command": "compare",
    "arguments": {
        "suite": "household-long",
        "backends": ["baseline", PRUNED],
        "episodes": 20,
        "seed": 3,
        "training_seeds": False,
        "executor": {"name": "local", "workers": 2},
        "verbosity": "verbose",
        "step_limit_factor": None,
        "agent": "AgentConfig()",
        "replay_prompts": 60,
        "replay_tokens": 16,
    },
    "seeds": [1_030_000],
    "models": {
        "baseline": {"name": "erecap-planner", "model": "0123456789abcdef", "dtype": "float32", "device": "cpu"},
        PRUNED: {"name": "erecap-planner", "model": "0123456789abcdef", "dtype": "float32", "device": "cpu", "pruner": "fedcba"},
    },
    "packages": {"torch": "2.8.0", "numpy": "2.0.0"},
    "python": "3.11.7",
    "git": {"revision": "67ce31f790f75ec10ea848b7", "dirty": True},
    "machine": {"cpu": "EPYC", "cores": 2, "memory_bytes": 16 * 2**30, "gpus": ["H100"], "system": "Linux"},
    "started": "2026-01-02T03:04:05+00:00",
}


def write_run(directory, suite="household-long", complete=True, replans=REPLANS, **arguments):
    directory.mkdir(parents=True)
    pruned = BACKEND | {"final_share": 0.12} | ({"replans": replans} if replans else {})
    summary = {
        "suite": suite, "seed": 3, "complete": complete, "reference": "baseline",
        "backends": {"baseline": BACKEND, PRUNED: pruned}, "paired": {PRUNED: PAIRED},
    }  # fmt: skip
    config = CONFIG | {"arguments": CONFIG["arguments"] | {"suite": suite} | arguments}
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "steps.jsonl").write_text("many lines\n")
    return directory


def test_the_page_of_results_is_that_of_the_kept_runs():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    runs = read_runs(kept_directories(KEPT))
    assert runs
    assert fill_page(text, runs) == text, "run `erecap results`"


def test_kept_runs_are_small():
    assert all(path.stat().st_size < 100_000 for path in KEPT.rglob("*"))
    assert {path.name for path in KEPT.glob("*/*")} == {"config.json", "summary.json"}


def test_a_section_has_figures_and_what_they_were_made_with(tmp_path):
    page = fill_page("", read_runs([write_run(tmp_path / "long-task")]))
    assert page.startswith(f"# Results\n\n{START}\n")
    for cell in [
        "| [long-task](#long-task) | task | 20 | erecap?keep=0.7 | 90% [70, 97] | -5.0 [-15.0, +5.0] | 0.85 | 62% | 4000 |",
        "| 62% | 4000 | 41% | 2.31x | 1.42x |",
        "| 4000 / 6000 / 8100 | 41% | 12% | 100 ms |",
        "| replanning | start | failure | end | forced |",
        "| 10% | 50% | 40% | 62% | 8 / 12 | 8 / 12 | 75% | 88% | 5% | 35% | 2.5 | 85% | 2 / 31 | 6100 | 25% | 3 |",
        "Suite `household-long`, plans of the whole task, 20 episodes per backend (run seed 3).",
        "- 2 cores of EPYC, 16 GiB, H100\n",
        "- Python 3.11.7, torch 2.8.0; revision 67ce31f790f7 with changes; started 2026-01-02\n",
        "- `erecap?keep=0.7`: name erecap-planner, model 0123456789abcdef, dtype float32, device cpu, pruner fedcba\n",
    ]:
        assert cell in page


def test_what_stands_around_the_block_stays_and_the_order_of_runs_does_not_matter(tmp_path):
    long = write_run(tmp_path / "b", replans=None)
    others = [
        write_run(tmp_path / "c"),
        write_run(tmp_path / "a", suite="household-small"),
        write_run(tmp_path / "d", suite="X-v0", clock=2.0),
        write_run(tmp_path / "e", suite="X-v0"),
    ]
    page = fill_page(f"before\n\n{START}\nstale text\n{END}\n\nafter\n", read_runs([*others, long]))
    assert page == fill_page(page, read_runs([long, *reversed(others)]))
    assert (page.startswith("before\n\n"), page.endswith(f"{END}\n\nafter\n"), "stale" in page) == (True, True, False)
    assert [line for line in page.splitlines() if line.startswith("### ")] == ["### a", "### b", "### c", "### e", "### d"]
    assert "Suite `X-v0`, plans of the whole task, 2 environment steps pass per second of thinking, 20 episodes" in page


@pytest.mark.parametrize("text", [START, END, f"{END}\n{START}\n", f"{START}\n{END}\n{START}\n{END}\n"])
def test_a_document_with_half_a_block_or_two_is_an_error(tmp_path, text):
    with pytest.raises(ValueError, match="must have one of each"):
        fill_page(text, read_runs([write_run(tmp_path / "a")]))


def test_a_run_that_was_summed_up_before_is_read_and_says_what_it_lacks(tmp_path):
    old = write_run(tmp_path / "old", replans=None)
    assert Summary.model_validate_json((old / "summary.json").read_text()).backends["baseline"].final_share is None
    page = fill_page("", read_runs([old]))
    assert "No figures about replanning" in page
    assert "| subgoal | 20 |" in page


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ({}, "erecap compare --suite household-long --backends 'baseline,erecap?keep=0.7' --workers 2 --episodes 20 --seed 3"),
        (
            {"suite": "My-v0", "executor": None, "seed": 0, "horizon": "task", "clock": [1, 2.5], "replay_prompts": 0},
            "erecap compare --env My-v0 --backends 'baseline,erecap?keep=0.7' --episodes 20 --replay-prompts 0 --horizon task "
            "--clock 1,2.5",
        ),
    ],
)  # fmt: skip
def test_the_command_is_written_from_the_arguments(arguments, command):
    config = CONFIG | {"arguments": CONFIG["arguments"] | arguments}
    assert command_line(RunConfig.model_validate(config)) == command


@pytest.mark.parametrize("name", [path.name for path in kept_directories(KEPT)])
def test_the_commands_of_the_kept_runs_are_commands(name, invoke, tmp_path, monkeypatch):
    """Their options are known: with an unknown executor each ends before anything is played."""
    config = RunConfig.model_validate_json((KEPT / name / "config.json").read_text())
    done = invoke(*shlex.split(command_line(config))[1:], "--executor", "none", "--out", tmp_path)
    assert "executor" in str(done.exception)


def test_weights_are_named_once_for_all_backends_that_use_them():
    same = CONFIG["models"]["baseline"]
    config = RunConfig.model_validate(CONFIG | {"models": {"baseline": same, "hf-generate": same}, "git": None})
    assert facts(config)[1:] == [
        "Python 3.11.7, torch 2.8.0; no revision; started 2026-01-02",
        "`baseline`, `hf-generate`: name erecap-planner, model 0123456789abcdef, dtype float32, device cpu",
    ]


def test_the_command_keeps_runs_and_finds_a_page_that_is_out_of_date(invoke, tmp_path):
    run, out, kept = write_run(tmp_path / "runs" / "long"), tmp_path / "page.md", tmp_path / "kept"
    first = write_run(kept / "other", suite="household-small")
    (first / "steps.jsonl").unlink()
    done = invoke("results", run, "--keep", "--out", out, "--kept", kept)
    assert done.exit_code == 0, done.output
    assert "written, 2 runs" in done.output
    assert {path.name for path in (kept / "long").iterdir()} == {"config.json", "summary.json"}
    shutil.rmtree(tmp_path / "runs")
    assert invoke("results", "--check", "--out", out, "--kept", kept).exit_code == 0
    page = out.read_text()
    out.write_text(page.replace("2.31x", "3.31x"))
    assert invoke("results", "--check", "--out", out, "--kept", kept).exit_code == 1
    assert "3.31x" in out.read_text()
    assert invoke("results", "--out", out, "--kept", kept).exit_code == 0
    assert out.read_text() == page


def test_named_runs_are_shown_alone_without_keep(invoke, tmp_path):
    run, out, kept = write_run(tmp_path / "long"), tmp_path / "page.md", tmp_path / "kept"
    write_run(kept / "other")
    assert "written, 1 runs" in invoke("results", run, "--out", out, "--kept", kept).output
    assert [path.name for path in kept.iterdir()] == ["other"]


def test_wrong_runs_are_errors_and_change_nothing(invoke, tmp_path):
    out, kept, good = tmp_path / "page.md", tmp_path / "kept", write_run(tmp_path / "good")
    damaged = write_run(tmp_path / "damaged")
    (damaged / "summary.json").write_text('{"suite": "x"}')
    unfinished, twin = write_run(tmp_path / "unfinished", complete=False), write_run(tmp_path / "twins" / "good")
    for words, message in [
        ([tmp_path / "nowhere", "--keep"], "holds no config.json"),
        ([damaged, "--keep"], "is no summary of a run"),
        ([unfinished, "--keep"], "is not finished"),
        ([good, twin, "--keep"], "both called 'good'"),
        ([], "no kept runs"),
        (["--keep"], "needs the directories"),
        ([good, "--keep", "--check"], "give one of them"),
    ]:
        done = invoke("results", *words, "--out", out, "--kept", kept)
        assert isinstance(done.exception, ValueError), (words, done.output)
        assert message in str(done.exception)
    assert not out.exists()
    assert not kept.exists()
