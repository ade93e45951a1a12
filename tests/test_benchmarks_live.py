"""Episodes while they are played: plans as they are made, and what is left of an episode that was interrupted."""

import json
import pickle

import pytest
import structlog

from agents.job import EpisodeJob
from agents.loop import AgentConfig
from agents.records import RECORD
from benchmarks.runs.live import UNFINISHED, LiveEpisode
from planner import Generation

ENV = "ERecap/HouseholdSmall-v0"
JOB = EpisodeJob("scripted", ENV, 3, max_steps=40)


class Interrupted:
    """Answers twice, then Ctrl-C comes."""

    def __init__(self, answers=2):
        self.left = answers

    def generate(self, prompt, sampling, on_line=None):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return Generation(text="explore\nexplore")


def test_an_interrupted_episode_leaves_what_happened(tmp_path):
    records = []
    with pytest.raises(KeyboardInterrupt):
        LiveEpisode(tmp_path)(JOB, Interrupted(), AgentConfig(), records.append)
    (left,) = tmp_path.glob(UNFINISHED)
    found = [RECORD.validate_json(line) for line in left.read_text().splitlines()]
    assert [record.kind for record in found] == [record.kind for record in records]
    assert [record.generation.text for record in found if record.kind == "planner_call"] == ["explore\nexplore"] * 2
    assert found[-1].kind == "transcript", "the observation that was to be answered"


def test_playing_it_again_begins_the_file_anew_and_a_finished_episode_leaves_none(tmp_path):
    for answers in (2, 1):
        with pytest.raises(KeyboardInterrupt):
            LiveEpisode(tmp_path)(JOB, Interrupted(answers), AgentConfig(), lambda record: None)
        (left,) = tmp_path.glob(UNFINISHED)
        assert left.read_text().count('"planner_call"') == answers
    end = LiveEpisode(tmp_path)(JOB, Interrupted(100), AgentConfig(), lambda record: None)
    assert end.kind == "episode"
    assert not list(tmp_path.iterdir())


def test_episodes_of_several_backends_have_files_of_their_own(tmp_path):
    for backend in ("one", "two"):
        with pytest.raises(KeyboardInterrupt):
            LiveEpisode(tmp_path)(EpisodeJob(backend, ENV, 3), Interrupted(0), AgentConfig(), lambda record: None)
    assert len(list(tmp_path.glob(UNFINISHED))) == 2


def test_a_folder_that_is_gone_is_a_warning_and_the_episode_goes_on(tmp_path):
    with structlog.testing.capture_logs() as logs:
        end = LiveEpisode(tmp_path / "gone")(JOB, Interrupted(100), AgentConfig(), lambda record: None)
    assert end.kind == "episode"
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert "not on disk until it is over" in warning["event"]


def test_plans_are_shown_line_by_line(tmp_path):
    with structlog.testing.capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        pickle.loads(pickle.dumps(LiveEpisode(None, show=True)))(JOB, Interrupted(1), AgentConfig(), lambda record: None)
    assert [entry["event"] for entry in logs] == ["explore", "explore"]
    assert {"backend": "scripted", "reason": "start", "seed": 3, "replan": 0}.items() <= logs[0].items()
    assert logs[0]["seconds"] >= 0
    assert not list(tmp_path.iterdir())


def test_a_plan_that_cannot_be_read_says_why():
    class Talker:
        def generate(self, prompt, sampling, on_line=None):
            return Generation(text="I will fly away")

    with structlog.testing.capture_logs() as logs:
        LiveEpisode(None, show=True)(JOB, Talker(), AgentConfig(max_replans=1), lambda record: None)
    assert logs[0]["event"] == "no plan"
    assert "unknown skill" in logs[0]["problem"]


@pytest.mark.parametrize("words", [("run", "-v"), ("-v", "run"), ("run",)])
def test_the_command_shows_plans_if_it_is_asked_to(invoke, tmp_path, words):
    done = invoke(*words, "--env", ENV, "--episodes", 1, "--out", tmp_path / "run")
    assert done.exit_code == 0
    lines = [line for line in done.stderr.splitlines() if "reason=" in line and "seconds=" in line]
    assert bool(lines) == ("-v" in words)
    assert json.loads(done.stdout.splitlines()[-1])["complete"]
    assert not list((tmp_path / "run").glob(UNFINISHED))


def test_ctrl_c_says_what_was_kept(invoke, fakes, monkeypatch, tmp_path):
    def interrupt(self, prompt, sampling, on_line=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("own_planner.Scripted.generate", interrupt)
    done = invoke("run", "--backend", "own_planner:Scripted", "--env", ENV, "--episodes", 1, "--out", tmp_path / "run")
    assert done.exit_code == 130
    (left,) = (tmp_path / "run").glob(UNFINISHED)
    assert left.name in done.stderr.replace("\n", "")
    assert "what happened until then is kept" in done.stderr
