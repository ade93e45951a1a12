"""Running episodes: resuming, worker processes, and what is left after a kill."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents import append_only
from agents.episode_log import EpisodeLog, read_episodes, read_records
from agents.job import EpisodeJob
from agents.loop import AgentConfig
from agents.pool import LocalPool
from agents.records import EpisodeRecord
from agents.runner import LostEpisodesError, run_jobs
from benchmarks.runs.records import RunRecords
from planner import History, build_prompt

CONFIG = AgentConfig()


def jobs(count, backend="baseline"):
    return [EpisodeJob(backend, "fake", seed) for seed in range(count)]


def play(fakes, out, count=4, episode=None, **options):
    return run(jobs(count), fakes.fake_backend, out, episode=episode or fakes.fake_episode, **options)


def run(todo, make_backend, out, workers=1, **options):
    with EpisodeLog(out / "steps.jsonl") as log:
        return run_jobs(todo, make_backend, log, CONFIG, LocalPool(workers), **options)


def test_episodes_come_back_in_the_order_of_the_jobs_and_whole(fakes, tmp_path):
    seen = []
    done = play(fakes, tmp_path, on_episode=seen.append)
    assert [e.seed for e in done] == [0, 1, 2, 3] == [e.seed for e in seen]
    records = list(read_records(tmp_path / "steps.jsonl"))
    assert len(records) == 4 * 8
    assert [isinstance(r, EpisodeRecord) for r in records[7::8]] == [True] * 4


def test_finished_episodes_are_skipped_and_reported(fakes, tmp_path):
    play(fakes, tmp_path, count=2)
    before = (tmp_path / "steps.jsonl").read_bytes()
    played, seen = [], []

    def counting(job, *rest):
        played.append(job.seed)
        return fakes.fake_episode(job, *rest)

    done = play(fakes, tmp_path, count=4, episode=counting, on_episode=seen.append)
    assert played == [2, 3]
    assert [e.seed for e in seen] == [0, 1, 2, 3] == [e.seed for e in done]
    assert (tmp_path / "steps.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize("cut", [2, 40, 400, 1200])
def test_a_kill_in_mid_write_loses_that_episode_only(fakes, tmp_path, cut):
    play(fakes, tmp_path, count=2)
    path = tmp_path / "steps.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert len(read_episodes(path)) == 1
    assert {r.seed for r in read_records(path)} == {0}
    play(fakes, tmp_path, count=2)
    assert path.read_bytes() == whole
    assert (tmp_path / "steps.jsonl.torn").read_bytes() == b"".join(whole.splitlines(keepends=True)[8:])[:-cut]


def test_a_last_line_without_its_line_break_is_whole(fakes, tmp_path):
    play(fakes, tmp_path, count=2)
    path = tmp_path / "steps.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert len(read_episodes(path)) == 2
    play(fakes, tmp_path, count=2, episode=None)
    assert path.read_bytes() == whole


def spaced(text):
    return "".join(json.dumps(json.loads(line)) + "\n" for line in text.splitlines())


@pytest.mark.parametrize("rewrite", [spaced, lambda text: text.replace("\n", "\r\n"), lambda text: text.replace("\n", "\n\n")])
def test_a_log_that_another_tool_wrote_anew_is_finished(fakes, tmp_path, rewrite):
    play(fakes, tmp_path, count=3)
    path = tmp_path / "steps.jsonl"
    records = list(read_records(path))
    path.write_bytes(written := rewrite(path.read_text()).encode())
    assert list(read_records(path)) == records
    assert len(play(fakes, tmp_path, count=3, episode=None)) == 3
    assert path.read_bytes() == written


@pytest.mark.parametrize("text", ["some notes\n", "no line break", "{}\n", '{"a": 1}', "\0\0 binary", '"backend"\n', "\ufeff{}\n"])
def test_a_foreign_file_is_refused_and_left_as_it_is(fakes, tmp_path, text):
    path = tmp_path / "steps.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"steps\.jsonl, line 1: .*move it away, or choose another directory"):
        play(fakes, tmp_path, count=1)
    with pytest.raises(ValueError, match="line 1"):
        list(read_records(path))
    assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["steps.jsonl"]


def test_foreign_text_behind_the_episodes_is_refused(fakes, tmp_path):
    play(fakes, tmp_path, count=2)
    path = tmp_path / "steps.jsonl"
    path.write_bytes(written := path.read_bytes() + b"my notes\n")
    with pytest.raises(ValueError, match=r"line 17: .*remove all of its lines 17 to 17"):
        play(fakes, tmp_path, count=3)
    assert path.read_bytes() == written


def without(*numbers):
    return lambda lines: [line for number, line in enumerate(lines, 1) if number not in numbers]


@pytest.mark.parametrize("old", [False, True], ids=["today's", "without digest"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (without(10), "history entries are numbered 0, 2, 3, 4"),
        (without(14), "the replans are numbered 1 instead of 0 to 1"),
        (without(15), "the replans are numbered 0 instead of 0 to 1"),
        (without(16), "a record of the episode of baseline in fake, seed 2 follows records of .* seed 1, which have no end"),
        (lambda lines: [*lines, *lines[8:16]], "seed 1 is there twice, first from line 9 on"),
        (lambda lines: [*lines[:10], lines[9], *lines[10:]], "numbered 0, 1, 1, 2, 3, 4"),
        (lambda lines: [*lines[:9], lines[10], lines[9], *lines[11:]], "numbered 0, 2, 1, 3, 4"),
    ],
)
def test_a_log_that_breaks_its_promise_is_refused(fakes, tmp_path, damage, problem, old):
    play(fakes, tmp_path, count=3)
    path = tmp_path / "steps.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if old:
        lines = [re.sub(r'"digest":"\w*"', '"digest":null', line) for line in lines]
    path.write_text(written := "".join(damage(lines)))
    with pytest.raises(ValueError, match=problem) as caught:
        play(fakes, tmp_path, count=3)
    assert path.read_text() == written
    follow_the_advice(path, str(caught.value))
    assert len(play(fakes, tmp_path, count=3)) == 3
    assert sorted(lines) == sorted(path.read_text().splitlines(keepends=True)) or old


def follow_the_advice(path, message):
    """Remove the lines that the message names, as a user would."""
    first, last = map(int, re.search(r"all of its lines (\d+) to (\d+)", message).groups())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: first - 1] + lines[last:]))


@pytest.mark.parametrize(("old", "new"), [('"success":true', '"success":false'), ("You see a box. ", "You see a bow. ")])
def test_a_changed_value_is_noticed(fakes, tmp_path, old, new):
    play(fakes, tmp_path, count=2)
    path = tmp_path / "steps.jsonl"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"line 8: .*changed after it was written.*lines 1 to 8"):
        play(fakes, tmp_path, count=2)


def test_a_file_torn_in_its_first_episode_starts_over(fakes, tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_text('{"backend":"baseline","env_id"')
    assert len(play(fakes, tmp_path, count=1)) == 1
    assert len(list(read_records(path))) == 8


def test_text_that_looks_like_the_end_of_an_episode_is_only_text(fakes, tmp_path):
    def tricky(job, backend, config, sink, frames=None):
        text = '"kind":"episode"'
        sink(fakes.TranscriptRecord(backend=job.backend, env_id=job.env_id, seed=job.seed, index=0, entry="task", text=text))
        return fakes.fake_episode(job, backend, config, sink)

    play(fakes, tmp_path, count=1, episode=tricky)
    path = tmp_path / "steps.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert list(read_records(path)) == []


def test_a_malformed_line_is_named(fakes, tmp_path):
    play(fakes, tmp_path, count=1)
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"kind":"step"}\n' + path.read_bytes())
    with pytest.raises(ValueError, match=r"steps\.jsonl, line 1: .*lines 1 to 9, not fewer"):
        list(read_records(path))


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "steps.jsonl"
    with EpisodeLog(path), pytest.raises(ValueError, match="being written by another run"), EpisodeLog(path):
        pass


@pytest.mark.parametrize("workers", [0, -1])
def test_a_wrong_number_of_workers_is_refused(fakes, tmp_path, workers):
    with pytest.raises(ValueError, match="must be at least 1"):
        play(fakes, tmp_path, workers=workers)


def test_one_backend_is_made_per_spec(fakes, tmp_path):
    made = []

    def make(spec):
        made.append(spec)
        return fakes.fake_backend(spec)

    todo = jobs(2) + jobs(2, "erecap?keep=0.5")
    run(todo, make, tmp_path, episode=fakes.fake_episode)
    assert made == ["baseline", "erecap?keep=0.5"]


def test_workers_write_what_one_process_writes(fakes, tmp_path):
    play(fakes, tmp_path / "one", count=5)
    done = play(fakes, tmp_path / "two", count=5, workers=2)
    assert [e.seed for e in done] == [0, 1, 2, 3, 4]
    lines = [sorted((tmp_path / name / "steps.jsonl").read_text().splitlines()) for name in ("one", "two")]
    assert lines[0] == lines[1]


def test_the_episode_of_a_worker_that_dies_is_played_once_more(fakes, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    done = play(fakes, tmp_path, workers=2, episode=fakes.Dying(marks, seed=1, times=1))
    assert [e.seed for e in done] == [0, 1, 2, 3]
    assert len(list(marks.iterdir())) == 1


def test_an_episode_that_kills_two_workers_is_an_error_after_the_others(fakes, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(LostEpisodesError, match=r"1 episodes were lost.*: the episode of baseline in fake, seed 1") as caught:
        play(fakes, tmp_path, workers=2, episode=fakes.Dying(marks, seed=1, times=9))
    assert [job.seed for job in caught.value.jobs] == [1]
    assert {seed for _, _, seed in read_episodes(tmp_path / "steps.jsonl")} == {0, 2, 3}
    assert len(list(marks.iterdir())) == 2


def test_workers_that_die_one_after_the_other_end_the_run(fakes, tmp_path):
    with pytest.raises(ValueError, match=r"8 worker processes died in a row, .*exit code 7.*fewer workers"):
        play(fakes, tmp_path, count=40, workers=2, episode=fakes.dying_episode)


def test_workers_that_cannot_start_end_the_run_at_once(fakes, tmp_path):
    pool = LocalPool(2, fakes.no_start)
    with EpisodeLog(tmp_path / "steps.jsonl") as log, pytest.raises(ValueError, match=r"exit code 3 before .*__main__"):
        run_jobs(jobs(2), fakes.fake_backend, log, CONFIG, pool, episode=fakes.fake_episode)


UNGUARDED = """
from pathlib import Path
import fake_play
from agents import AgentConfig, EpisodeJob, LocalPool, run_jobs
from agents.episode_log import EpisodeLog
with EpisodeLog(Path("steps.jsonl")) as log:
    jobs = [EpisodeJob("baseline", "fake", seed) for seed in range(3)]
    print(run_jobs(jobs, fake_play.fake_backend, log, AgentConfig(), LocalPool(2), episode=fake_play.fake_episode))
"""


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_a_script_without_a_main_guard_is_told_so(tmp_path, how):
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'tests' / 'fakes'}"}
    (tmp_path / "script.py").write_text(UNGUARDED)
    words = [sys.executable, "script.py"] if how == "file" else [sys.executable]
    done = subprocess.run(words, cwd=tmp_path, env=environment, input=UNGUARDED, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "before it could play" in done.stderr.splitlines()[-1]
    assert 'if __name__ == "__main__"' in done.stderr.splitlines()[-1]
    assert (tmp_path / "steps.jsonl").read_bytes() == b""


def test_a_deleted_folder_stops_the_run_at_the_next_write(fakes, tmp_path):
    played = []

    def deleting(job, *rest):
        played.append(job.seed)
        if job.seed == 1:
            shutil.rmtree(tmp_path / "run")
        return fakes.fake_episode(job, *rest)

    with pytest.raises(ValueError, match=r"steps\.jsonl was deleted, moved or replaced"):
        play(fakes, tmp_path / "run", episode=deleting)
    assert played == [0, 1]
    assert not (tmp_path / "run").exists()


def test_a_full_disk_ends_the_run_and_leaves_whole_episodes(fakes, tmp_path, monkeypatch):
    write = os.write
    play(fakes, tmp_path, count=1)
    whole = (tmp_path / "steps.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(append_only.os, "write", lambda file, data: write(file, data[:100]) if len(data) > 500 else full())
        with pytest.raises(ValueError, match=r"steps\.jsonl cannot be written: No space left on device.*make room"):
            play(fakes, tmp_path)
    assert (tmp_path / "steps.jsonl").read_bytes() == whole
    assert len(play(fakes, tmp_path)) == 4


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a process started in the background may ignore it, and its children with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stops_the_workers_and_keeps_what_is_finished(fakes, tmp_path, ctrl_c):
    with pytest.raises(KeyboardInterrupt):
        play(fakes, tmp_path, count=6, workers=2, episode=fakes.interrupting_episode)
    finished = {seed for _, _, seed in read_episodes(tmp_path / "steps.jsonl")}
    assert len(finished) >= 2
    assert 3 not in finished
    assert len(play(fakes, tmp_path, count=6)) == 6


@pytest.mark.parametrize(
    ("seed", "error", "text"),
    [
        (1, ValueError, "^no such model: name another$"),
        (2, RuntimeError, r"the episode of baseline in fake, seed 2 failed in a worker process\n(.*\n)*KeyError: 'a bug'"),
    ],
)
def test_an_exception_in_a_worker_is_raised_here(fakes, tmp_path, seed, error, text):
    todo = [EpisodeJob("baseline", "fake", s) for s in (seed, 5, 6)]
    with pytest.raises(error, match=text):
        run(todo, fakes.fake_backend, tmp_path, workers=2, episode=fakes.refusing_episode)


def test_recorded_prompts_are_rebuilt_exactly(fakes, tmp_path):
    play(fakes, tmp_path, count=2)
    prompts = RunRecords.read(tmp_path / "steps.jsonl").prompts("baseline")
    assert [(p.seed, p.replan, p.prompt_tokens) for p in prompts] == [(0, 0, 100), (0, 1, 200), (1, 0, 100), (1, 1, 200)]
    history = History().append("task", "Task: look around.").append("observation", "You see a ball. " * 2)
    assert prompts[2].prompt == build_prompt(history)
    assert len(prompts[3].prompt.segments) == 1 + 4


def test_prompts_of_a_backend_that_did_not_play_are_an_error(fakes, tmp_path):
    play(fakes, tmp_path, count=1)
    with pytest.raises(ValueError, match="no planner call of backend 'erecap'"):
        RunRecords.read(tmp_path / "steps.jsonl").prompts("erecap")
