"""Runs with workers that are killed, interrupted and terminated: nothing that was finished is lost, and nothing is played twice."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.episode_log import read_records

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "tests" / "fakes"
PATIENCE_S = 60  # until a process has ended that is to end at once
COMMAND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from benchmarks.cli import main; main()"
ASKS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""Signals that ask a command to end, and its exit codes."""


def canonical(path):
    """The records of each episode without times, sorted by episode."""
    found = {}
    for record in read_records(path):
        found.setdefault((record.backend, record.env_id, record.seed), []).append(without_times(record.model_dump(mode="json")))
    return sorted(found.items())


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if not key.endswith("_s") and key != "digest"}
    return value


def start(words, **options):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{FAKES}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *map(str, words)], env=environment, text=True, start_new_session=True, **options)


def has_ended(pidfds):
    """Wait until all of the processes have ended."""
    return all(select.select([pidfd], [], [], PATIENCE_S)[0] for pidfd in pidfds)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_workers_of_a_killed_parent_end_in_the_middle_of_their_episodes(fakes, tmp_path, number):
    pipe, hang_from = tmp_path / "pipe", random.randrange(1, 7)
    os.mkfifo(pipe)
    run = start([FAKES / "killed_run.py", tmp_path, pipe, hang_from])
    with open(os.open(pipe, os.O_RDWR)) as told:  # its own writer, so that the pipe does not end with the first worker's words
        workers = [os.pidfd_open(int(told.readline())) for _ in range(2)]
    os.kill(run.pid, number)
    assert run.wait(PATIENCE_S) == -number
    ended = has_ended(workers)
    if not ended:
        os.killpg(run.pid, signal.SIGKILL)
    assert ended
    from_killed = {record.seed for record in read_records(tmp_path / "steps.jsonl")}
    assert from_killed <= set(range(hang_from))
    assert_goes_on(fakes, tmp_path, from_killed)


def assert_goes_on(fakes, tmp_path, there):
    """Play what is missing, and compare with a run that nobody killed."""
    import killed_run  # in the folder of the fakes

    played = []

    def noting(job, *rest):
        played.append(job.seed)
        return fakes.fake_episode(job, *rest)

    for folder in (tmp_path, tmp_path / "whole"):
        with killed_run.EpisodeLog(folder / "steps.jsonl") as log:
            killed_run.run_jobs(killed_run.jobs(), fakes.fake_backend, log, killed_run.AgentConfig(), episode=noting)
    assert sorted(played) == sorted([*(set(range(8)) - there), *range(8)])
    assert canonical(tmp_path / "steps.jsonl") == canonical(tmp_path / "whole" / "steps.jsonl")


class Runs:
    """Runs of the expert on two workers, all with the same arguments."""

    def __init__(self, folder):
        self.folder = folder
        begin = time.perf_counter()
        self.finish(folder / "whole")
        self.seconds = time.perf_counter() - begin
        self.records = canonical(folder / "whole" / "steps.jsonl")
        self.summary = json.loads((folder / "whole" / "summary.json").read_text())

    def play(self, out):
        words = ["-c", COMMAND, "run", "--suite", "household-small", "--episodes", 12, "--workers", 2, "--out", out]
        return start(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def finish(self, out):
        run = self.play(out)
        run.communicate(timeout=5 * PATIENCE_S)
        assert run.returncode == 0

    def stopped_at(self, moment, number, out, group):
        """Start, send the signal ``moment`` seconds later, and return the exit code and what was printed."""
        run = self.play(out)
        try:
            printed, _ = run.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            (os.killpg if group else os.kill)(run.pid, number)
            printed, _ = run.communicate(timeout=PATIENCE_S)
        return run.returncode, printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGKILL, *ASKS], ids=lambda number: number.name)
@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_stopped_again_and_again_ends_like_one_that_was_not(runs, tmp_path, number, group, seed):
    """At random moments, twice; then it may finish. If it had opened the run, it has printed its summary."""
    rng = random.Random(f"{number} {group} {seed}")
    for _ in range(2):
        code, printed = runs.stopped_at(rng.uniform(0.1, runs.seconds), number, tmp_path / "run", group)
        assert code in (0, -number, ASKS.get(number))
        if code == ASKS.get(number) and printed.strip():
            assert json.loads(printed.splitlines()[-1])["complete"] is False
    runs.finish(tmp_path / "run")
    assert canonical(tmp_path / "run" / "steps.jsonl") == runs.records
    assert (
        json.loads((tmp_path / "run" / "summary.json").read_text())["backends"]["expert"]["spl"]
        == (runs.summary["backends"]["expert"]["spl"])
    )
