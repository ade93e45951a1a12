"""The command line, with the expert, which needs no model."""

import contextlib
import json
import signal
import sys

import pytest

from agents import episode_log
from benchmarks import cli
from benchmarks.backends.registry import BackendFactory
from benchmarks.commands import COMMANDS, results
from benchmarks.output.signals import stop_on_signals
from erecap.models.loading import bundled_pruner_dir
from erecap.models.pruner import TokenPruner

EXPERT = ["run", "--backend", "expert", "--suite", "smoke", "--episodes", "2"]


def test_every_command_has_help(invoke):
    for name in COMMANDS:
        done = invoke(name, "--help")
        assert done.exit_code == 0
        assert name in done.output


def test_the_expert_plays_and_the_last_line_is_json(invoke, tmp_path):
    done = invoke(*EXPERT, "--out", tmp_path / "run", "--gif", tmp_path / "out.gif")
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["backends"]["expert"]["episodes"] == 2
    assert last["complete"]
    assert (tmp_path / "out.gif").exists()
    assert (tmp_path / "run" / "summary.json").exists()


def test_costs_are_measured_and_a_budget_can_use_them(invoke, model_dir, tmp_path):
    out = tmp_path / "cost.json"
    options = ["--model", model_dir, "--selector", "recency", "--dtype", "float32", "--device", "cpu", "--out", out]
    done = invoke("calibrate", "--cost", *options, "--lengths", "48,96", "--answer-tokens", "3", "--rounds", "1")
    assert done.exit_code == 0, done.output
    assert "held out from the fit" in done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["cost"], last["answer_tokens"]) == (str(out), 3)
    assert last["late_p90"] >= 1.0
    spec = f"erecap?model={model_dir}&selector=recency&dtype=float32&device=cpu&budget_ms=300&cost={out}"
    assert BackendFactory()(spec).schedule.stages == ()


def test_listings(invoke):
    assert "household-recall" in invoke("suites").output
    assert "hf-generate" in invoke("backends").output


def test_a_backend_of_ones_own_plays(invoke, fakes, tmp_path):
    done = invoke("run", "--backend", "own_planner:make?skill=explore", "--episodes", "1", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["backends"]["own_planner:make?skill=explore"]["episodes"] == 1
    done = invoke("compare", "--backends", "own_planner:make,expert", "--episodes", "1", "--out", tmp_path / "compare")
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout.splitlines()[-1])["backends"]) == {"expert", "own_planner:make"}
    assert not (tmp_path / "compare" / "replay.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--suite", "nope"], "choose from smoke"),
        (["run", "--env", "Nope-v0"], "unknown"),
        (["run", "--env", "a", "--suite", "b"], "one of --suite and --env"),
        (["run", "--backend", "expert,openai?model=m"], "run takes one"),
        (["compare", "--backends", "nope"], "choose from"),
        (["compare", "--backends", "no_such_package:make"], "install its package"),
        (["compare", "--episodes", "0", "--backends", "expert"], "must be from 1"),
        (["calibrate"], "give either --data"),
        (["calibrate", "--cost", "--lengths", "512,512"], "needs at least two lengths"),
        (["calibrate", "--cost", "--model", "somewhere"], "needs a pruner of its own"),
        (["calibrate", "--cost", "--lengths", "2k"], "positive whole numbers"),
        (["run", "--backend", "expert", "--out", f"{__file__}/below"], "Not a directory. Name a path"),
    ],
)
def test_user_errors_are_one_message_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["erecap", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_prints_what_is_there_and_the_same_command_goes_on(invoke, monkeypatch, tmp_path):
    command = [*EXPERT, "--out", tmp_path]
    append = episode_log.EpisodeLog.append

    def interrupted(log, lines):
        if (tmp_path / "steps.jsonl").stat().st_size:
            raise KeyboardInterrupt
        return append(log, lines)

    with monkeypatch.context() as patch:
        patch.setattr(episode_log.EpisodeLog, "append", interrupted)
        done = invoke(*command)
    assert done.exit_code == 130
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["complete"], last["backends"]["expert"]["episodes"]) == (False, 1)
    assert invoke(*command).exit_code == 0


def test_a_grid_that_is_stopped_while_the_models_of_its_second_suite_load(invoke, monkeypatch, tmp_path):
    made = results.run_comparison

    def interrupted(comparison, *rest, **options):
        if comparison.loop.suite.name == "smoke":
            raise KeyboardInterrupt
        return made(comparison, *rest, **options)

    monkeypatch.setattr(results, "run_comparison", interrupted)
    grid = ["ablate", "--backends", "baseline", "--episodes", "1", "--replay-prompts", "0", "--out", tmp_path]
    done = invoke(*grid, "--suites", "household-small,smoke")
    assert done.exit_code == 130, done.output
    assert json.loads(done.stdout.splitlines()[-1])["complete"] is False
    assert "household-small" in (tmp_path / "ablation.md").read_text()
    assert invoke(*grid, "--suites", "smoke").exit_code == 130
    assert not (tmp_path / "smoke").exists()


def test_a_signal_that_a_library_takes_for_ctrl_c_keeps_its_exit_code(monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def ends():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        sys.exit(130)  # as typer does

    monkeypatch.setattr(cli, "app", ends)
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_that_ask_to_end_give_the_summary(monkeypatch, capsys, tmp_path, number, code):
    append = episode_log.EpisodeLog.append
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(log, lines):
        if (tmp_path / "steps.jsonl").stat().st_size:
            signal.raise_signal(number)
        return append(log, lines)

    monkeypatch.setattr(episode_log.EpisodeLog, "append", interrupted)
    monkeypatch.setattr(sys, "argv", ["erecap", *EXPERT, "--out", str(tmp_path)])
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        left = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert stopped.value.code == code
    assert set(left.values()) == {signal.SIG_DFL}
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["complete"], last["backends"]["expert"]["episodes"]) == (False, 1)
    assert json.loads((tmp_path / "summary.json").read_text())["complete"] is False


def test_a_signal_that_is_ignored_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_both_stages_of_the_pruner_from_texts(invoke, model_dir, tmp_path):
    """Saliency of the texts that ship, then a pruner for its stages, with validation, plot and event files."""
    data = ["--model", model_dir, "--data", bundled_pruner_dir().parent / "texts" / "sample.jsonl", "--num-samples", "6"]
    done = invoke("saliency", *data, "--stages", "0+2", "--out", tmp_path / "s.safetensors")
    assert done.exit_code == 0, done.output
    training = ["--steps", "4", "--eval-every", "2", "--held-out", "0.4", "--keep", "0.4-0.8", "--tensorboard"]
    done = invoke("train-pruner", *data, "--saliency", tmp_path / "s.safetensors", *training, "--out", tmp_path / "p")
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert {"lm", "mse", "rank", "order"} <= last["last"]["eval"].keys()
    assert TokenPruner.from_pretrained(last["pruner"]).stages == (0, 2)
    assert (tmp_path / "p" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "p" / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--keep", "much", "write it like 0.3 or 0.05-0.6"),
        ("--final-share", "0.6-0.05", "lowest <= highest"),
        ("--inputs", "none", "rms, raw"),
        ("--batch-tokens", "0", "must be at least 1"),
        ("--targets", "none", "plan, all"),
        ("--held-out", "1", "in [0, 1)"),
    ],
)
def test_training_that_cannot_be_says_why(invoke, model_dir, tmp_path, option, value, message):
    done = invoke("train-pruner", "--model", model_dir, "--data", tmp_path, option, value)
    assert message in str(done.exception)
