"""``erecap run`` and ``compare`` on two processes that divide the model: the records of one process, and a clean end."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.backends.ranks import Leader, LedBackend, follow
from benchmarks.commands import ranks as commands
from erecap.distributed import ranks
from erecap.distributed.ranks import joined
from planner import Generation, Prompt, PromptTooLongError, Sampling, Segment

PROMPT, SAMPLING = Prompt((Segment("user", "go"),)), Sampling(avoid=("goto kitchen\nexplore",))


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module


def command(words):
    """Run the command line in this process, as ``torchrun -m benchmarks.cli`` does."""
    sys.argv = ["erecap", *map(str, words)]
    cli.main()


def without_times(value):
    """Drop what depends on the machine's speed and memory, and the digests of records, which hold times."""
    if isinstance(value, dict):
        return {
            key: without_times(part)
            for key, part in value.items()
            if not key.endswith(("_s", "_s_p50")) and key not in ("peak_memory_bytes", "started", "tp_size", "digest")
        }
    return [without_times(part) for part in value] if isinstance(value, list) else value


def records(folder, name):
    return [without_times(json.loads(line)) for line in (folder / name).read_text().splitlines()]


def test_compare_over_two_ranks_gives_the_records_of_one_process(fake, invoke, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.commands.results.write_report", lambda results: None)  # plots take longer than all the rest
    fake("split_planner").save_split_planner(tmp_path)
    model = f"model={tmp_path}/planner&dtype=float32"
    specs = f"baseline?{model},erecap?keep=0.7&pruner={tmp_path}/pruner&{model}"
    words = ["compare", "--env", "BabyAI-PickupLoc-v0", "--backends", specs, "--episodes", "1", "--replay-prompts", "1", "--out"]
    alone = invoke(*words, tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    first, second = fake("two_ranks").run_on_ranks(command, [*words, tmp_path / "together"], folder=tmp_path)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert (second.out, second.err) == ("", "")
    for name in ("steps.jsonl", "replay.jsonl"):
        assert records(tmp_path / "together", name) == records(tmp_path / "alone", name)
    calls = [record for record in records(tmp_path / "together", "steps.jsonl") if record["kind"] == "planner_call"]
    assert any(call["generation"]["stage_tokens"] for call in calls)
    config, plain = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("together", "alone"))
    assert {facts["tp_size"] for facts in config["models"].values()} == {"2"}
    assert without_times(config["models"]) == plain["models"]
    assert json.loads(first.out.splitlines()[-1])["complete"]


class Loaded:
    """A backend with a model that notes what it is asked."""

    loaded = "a model"

    def __init__(self, spec):
        self.spec, self.asked = spec, []

    def generate(self, prompt, sampling, on_line=None):
        self.asked.append(sampling)
        if self.spec == "short":
            raise PromptTooLongError("too long")
        return Generation(f"plan of {self.spec}")


class Plain:
    """A backend without a model."""

    def generate(self, prompt, sampling, on_line=None):
        return Generation("plan")


def planned(kind):
    """Let rank 0 make backends, use and drop them; return what this rank made and was asked."""
    made = []

    def make(spec):
        made.append(Plain() if spec == "plain" else Loaded(spec))
        return made[-1]

    with joined() as own:
        if not own.leads:
            follow(own, make)
            return [(type(backend).__name__, getattr(backend, "asked", [])) for backend in made]
        leader = Leader(own, make)
        first = leader("first")
        answers = [first.generate(PROMPT, SAMPLING).text for _ in range(2)]
        del first
        short = leader("short")
        try:
            short.generate(PROMPT, SAMPLING)
        except PromptTooLongError as error:
            answers.append(str(error))
        plain = leader("plain")
        answers.append(plain.generate(PROMPT, SAMPLING).text)
        if kind == "interrupted":
            own.in_step = False
        leader.end()
        return answers


def test_the_others_make_and_ask_what_rank_0_does(fake, tmp_path):
    first, second = fake("two_ranks").run_on_ranks(planned, "ended", folder=tmp_path)
    assert first.value == ["plan of first", "plan of first", "too long", "plan"], first.err
    assert second.value == [("Loaded", [SAMPLING] * 2), ("Loaded", [SAMPLING]), ("Plain", [])], second.err


def test_the_others_leave_when_rank_0_was_interrupted(fake, tmp_path, monkeypatch):
    monkeypatch.setattr("erecap.distributed.watch.BEAT_S", 0.05)
    monkeypatch.setattr("erecap.distributed.watch.GRACE_S", 0.05)
    first, second = fake("two_ranks").run_on_ranks(planned, "interrupted", folder=tmp_path)
    assert second.code == 130
    assert first.value or first.code == 130


class Together:
    """Ranks of which only rank 0 is there: it keeps what it sends."""

    def __init__(self):
        self.sent, self.in_step = [], True
        self.step = ranks.Ranks.step.__get__(self)

    def share(self, message):
        self.sent.append(message)


def test_a_dropped_backend_is_dropped_elsewhere_with_the_next_message():
    together = Together()
    leader = Leader(together, Loaded)
    led = leader("first")
    assert isinstance(led, LedBackend)
    assert (led.loaded, led.spec) == ("a model", "first")
    del led
    leader("second")
    assert [message.dropped for message in together.sent] == [(), (0,)]


def test_an_answer_that_is_cut_short_leaves_rank_0_out_of_step():
    together = Together()
    led = Leader(together, Loaded)("first")
    led.backend.generate = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        led.generate(PROMPT, SAMPLING)
    assert not together.in_step
    short = Leader(together, Loaded)("short")
    with pytest.raises(PromptTooLongError):
        short.generate(PROMPT, SAMPLING)
    assert together.in_step


def test_ctrl_c_interrupts_rank_0_once(monkeypatch):
    set_to = []
    monkeypatch.setattr(commands.signal, "signal", lambda number, handler: set_to.append(handler))
    with pytest.raises(KeyboardInterrupt):
        commands._interrupt_once(2, None)
    assert set_to == [commands.signal.SIG_IGN]


@pytest.fixture
def launched(monkeypatch):
    """``launched(rank)``: the environment of one of two processes."""

    def set_rank(rank):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 2)):
            monkeypatch.setenv(name, str(value))

    return set_rank


def test_other_commands_are_refused_once(launched, invoke):
    launched(0)
    with pytest.raises(
        ValueError, match=r"`erecap suites` runs in one process: start it without torchrun, which is for run, compare"
    ):
        raise invoke("suites").exception
    launched(1)
    silent = invoke("suites")
    assert (silent.exit_code, silent.output) == (2, "")


def test_two_workers_are_refused(fake, tmp_path):
    words = ["run", "--workers", "2", "--out", tmp_path / "run"]
    first, second = fake("two_ranks").run_on_ranks(command, words, folder=tmp_path)
    assert "workers=2 under torchrun: its processes share one model" in first.err
    assert (first.code, second.err) == (2, "")


@pytest.mark.parametrize(
    ("executor", "workers", "named"), [("ray", None, "executor='ray'"), ("ray", 1, "executor='ray'"), ("local", 3, "workers=3")]
)
def test_workers_beside_the_ranks_are_refused(executor, workers, named):
    with pytest.raises(ValueError, match=f"{named} under torchrun: its processes share one model"):
        commands._refuse_workers(executor, workers)


@pytest.mark.parametrize("workers", [None, 1])
def test_rank_0_plays_alone_by_default(workers):
    commands._refuse_workers("local", workers)


def test_a_model_that_cannot_be_divided_is_one_error(fake, tmp_path):
    words = ["run", "--backend", "baseline", "--env", "BabyAI-PickupLoc-v0", "--episodes", "1", "--out", tmp_path / "run"]
    first, second = fake("two_ranks").run_on_ranks(command, words, folder=tmp_path)
    assert first.err.startswith("error: num_key_value_heads=1 cannot be divided among 2 ranks"), first.err
    assert (first.code, second.code, second.err) == (2, 1, "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["value", "kill"])
def test_a_follower_that_fails_ends_torchrun_within_a_minute(fake, tmp_path, kind):
    """The whole way: torchrun, the command line, and a backend that fails on rank 1 in its fifth answer."""
    import os
    import subprocess
    import time

    fake("split_planner").save_split_planner(tmp_path)
    fakes = Path(__file__).parent / "fakes"
    environment = os.environ | {"PYTHONPATH": f"{fakes}:{Path(__file__).parents[1]}", "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.cli"]
    spec = f"failing_planner:make?kind={kind}&model={tmp_path}/planner"
    began = time.monotonic()
    done = subprocess.run(
        [*torchrun, "run", "--backend", spec, "--episodes", "1", "--out", tmp_path / "run"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert time.monotonic() - began < 150
    assert done.returncode == 1
    expected = "error: rank 1: this plan cannot be made" if kind == "value" else "Signal 9 (SIGKILL)"
    assert expected in done.stderr
