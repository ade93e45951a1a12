"""Episodes on a cluster: handing out, lost workers, refusals. The cluster is a fake one here, Ray in `test_benchmarks_ray.py`."""

import importlib
import os
from functools import partial
from pathlib import Path

import pytest

from agents.episode_log import EpisodeLog, read_episodes
from agents.job import EpisodeJob
from agents.loop import AgentConfig
from agents.runner import LostEpisodesError, run_jobs
from benchmarks.cluster.executor import RayExecutor, choose_gpus, count_workers
from benchmarks.cluster.pool import ClusterPool
from benchmarks.cluster.protocol import ClusterError, Node, Share
from benchmarks.cluster.worker import EpisodeWorker
from benchmarks.output.code_state import code_state

SHARE = Share(1.0, 0.0)


@pytest.fixture
def fake_cluster(fakes):
    """The module ``fake_cluster``."""
    return importlib.import_module("fake_cluster")


@pytest.fixture
def pool_of(fake_cluster):
    """``pool_of(workers, **cluster)``: a pool on a fake cluster."""
    code = code_state()
    return lambda workers=2, **cluster: ClusterPool(fake_cluster.FakeCluster(**cluster), SHARE, workers, code)


def jobs(count, backend="baseline"):
    return [EpisodeJob(backend, "fake", seed) for seed in range(count)]


def play(fakes, out, pool, todo, episode=None, make_backend=None):
    with EpisodeLog(out / "steps.jsonl") as log:
        return run_jobs(todo, make_backend or fakes.fake_backend, log, AgentConfig(), pool, episode=episode or fakes.fake_episode)


def lines(out):
    return (out / "steps.jsonl").read_text().splitlines()


def test_a_cluster_writes_what_one_process_writes(fakes, pool_of, tmp_path):
    play(fakes, tmp_path / "one", None, jobs(5))
    pool = pool_of(3)
    done = play(fakes, tmp_path / "many", pool, jobs(5))
    assert [e.seed for e in done] == [0, 1, 2, 3, 4]
    assert sorted(lines(tmp_path / "many")) == sorted(lines(tmp_path / "one"))
    assert lines(tmp_path / "many") != lines(tmp_path / "one"), "the episodes ended in the order of the jobs, which tests less"
    assert len(pool.cluster.workers) == 3


def test_there_are_no_more_workers_than_episodes_and_none_is_left(fakes, pool_of, tmp_path):
    pool = pool_of(8)
    play(fakes, tmp_path, pool, jobs(2))
    assert len(pool.cluster.workers) == 2
    pool.close()
    assert pool.cluster.stopped == pool.cluster.workers


def test_a_run_goes_on_with_the_workers_that_there_is_room_for(fakes, pool_of, tmp_path):
    pool = pool_of(4, room=1)
    assert len(play(fakes, tmp_path, pool, jobs(4))) == 4
    pool.close()
    assert set(map(id, pool.cluster.stopped)) == set(map(id, pool.cluster.workers)), "workers that never started are given up too"


def test_a_worker_keeps_its_backend(fakes, pool_of, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(fakes, "FakeModel", lambda keep: made.append(keep) or object())
    play(fakes, tmp_path, pool_of(1), jobs(3) + jobs(3, "erecap?keep=0.5"))
    assert made == [1.0, 0.5]


def test_the_episode_of_a_lost_worker_is_played_once_more(fakes, fake_cluster, pool_of, tmp_path):
    pool = pool_of(2, dies=fake_cluster.DiesAt(seed=1, times=1))
    assert [e.seed for e in play(fakes, tmp_path, pool, jobs(4))] == [0, 1, 2, 3]
    assert len(pool.cluster.workers) == 3


def test_an_episode_that_loses_two_workers_is_an_error_after_the_others(fakes, fake_cluster, pool_of, tmp_path, capsys):
    pool = pool_of(2, dies=fake_cluster.DiesAt(seed=1, times=9))
    with pytest.raises(LostEpisodesError, match="the episode of baseline in fake, seed 1"):
        play(fakes, tmp_path, pool, jobs(4))
    assert {seed for _, _, seed in read_episodes(tmp_path / "steps.jsonl")} == {0, 2, 3}
    again, left_out = (line for line in capsys.readouterr().err.splitlines() if "died" in line)
    assert "played once more" in again
    assert all(part in left_out for part in ("left out", "its process died", "backend=baseline", "env_id=fake", "seed=1"))
    assert len(play(fakes, tmp_path, pool_of(2), jobs(4))) == 4, "the run can be continued"


def test_workers_that_die_in_a_row_end_the_run_and_keep_what_is_finished(fakes, pool_of, tmp_path):
    died = iter([False, False] + [True] * 99)
    pool = pool_of(1, dies=lambda method, arguments: method == "play" and next(died))
    with pytest.raises(
        ClusterError, match=r"^6 workers died in a row.*its process died.*the episode of baseline in fake, seed \d"
    ) as raised:
        play(fakes, tmp_path, pool, jobs(12))
    assert str(raised.value).count("the episode of") == 5
    assert "and 5 more. Give each worker more memory" in str(raised.value)
    assert len(read_episodes(tmp_path / "steps.jsonl")) == 2


def test_workers_that_die_while_they_start_end_the_run(fakes, pool_of, tmp_path):
    with pytest.raises(ClusterError, match="6 workers died in a row"):
        play(fakes, tmp_path, pool_of(1, dies=lambda method, arguments: method == "describe"), jobs(2))


def test_a_lost_cluster_ends_the_run(fakes, pool_of, tmp_path):
    with pytest.raises(ClusterError, match="the cluster is lost"):
        play(fakes, tmp_path, pool_of(1, room=0, lost=True), jobs(2))


@pytest.mark.parametrize(
    ("seed", "error", "text"),
    [
        (1, ValueError, r"^no such model: name another \(from a worker on .*--working-dir"),
        (2, RuntimeError, "the episode of baseline in fake, seed 2 failed in a worker on (.*\n)*KeyError: 'a bug'"),
    ],
)
def test_an_exception_in_a_worker_is_raised_here(fakes, pool_of, tmp_path, seed, error, text):
    todo = [EpisodeJob("baseline", "fake", s) for s in (5, seed, 6)]
    with pytest.raises(error, match=text):
        play(fakes, tmp_path, pool_of(1), todo, fakes.refusing_episode)
    assert [seed for _, _, seed in read_episodes(tmp_path / "steps.jsonl")] == [5]


def test_what_a_worker_cannot_unpickle_is_reported():
    answers = [EpisodeWorker().call(b"junk"), EpisodeWorker().play(b"junk", jobs(1)[0])]
    assert all("UnpicklingError" in answer.text and not answer.user_error for answer in answers)


def test_a_worker_that_takes_no_gpu_sees_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    EpisodeWorker()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    EpisodeWorker(hide_gpus=True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_worker_works_in_the_folder_of_the_command_if_it_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    EpisodeWorker(str(tmp_path / "not here"))
    assert Path.cwd() == Path(__file__).parent
    EpisodeWorker(str(tmp_path))
    assert Path.cwd() == tmp_path


def test_a_stopped_run_stops_the_workers_that_play(fakes, pool_of, tmp_path):
    pool = pool_of(2)

    def stop(episode):
        raise KeyboardInterrupt

    with EpisodeLog(tmp_path / "steps.jsonl") as log, pytest.raises(KeyboardInterrupt):
        run_jobs(jobs(4), fakes.fake_backend, log, AgentConfig(), pool, stop, episode=fakes.fake_episode)
    pool.close()
    assert set(map(id, pool.cluster.stopped)) == set(map(id, pool.cluster.workers))
    assert len(read_episodes(tmp_path / "steps.jsonl")) == 1


def test_a_function_is_called_in_a_worker_that_plays_afterwards(fakes, pool_of, tmp_path):
    pool = pool_of(2)
    assert pool.call(partial(max, 3, 4)) == 4
    play(fakes, tmp_path, pool, jobs(3))
    assert len(pool.cluster.workers) == 2


def test_a_worker_that_dies_while_it_loads_models_is_reported(pool_of):
    with pytest.raises(ClusterError, match=r"a worker on .* died while it loaded the models: its process died. Check"):
        pool_of(2, dies=lambda method, arguments: method == "call").call(partial(max, 3, 4))


def test_a_worker_with_other_code_is_refused(fakes, pool_of, tmp_path):
    pool = pool_of(2)
    pool.code = {**pool.code, "torch": "1.13"}
    with pytest.raises(
        ClusterError, match=r"a worker on .* runs other code than this process: torch .* instead of 1\.13\. Install the same"
    ):
        play(fakes, tmp_path, pool, jobs(2))
    pool.close()
    assert set(map(id, pool.cluster.stopped)) == set(map(id, pool.cluster.workers))


def test_the_code_state_changes_with_a_source_file(tmp_path, monkeypatch):
    module = importlib.import_module("benchmarks.output.code_state")
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    (tmp_path / "agents").mkdir()
    states = []
    for text in ("a", "b", "b"):
        (tmp_path / "agents" / "loop.py").write_text(text)
        states.append(code_state()["sources"])
    assert states[0] != states[1] == states[2]


@pytest.mark.parametrize(
    ("nodes", "share", "asked", "workers"),
    [
        ([Node(8, 0)], Share(1, 0), None, 8),
        ([Node(8, 0)], Share(3, 0), None, 2),
        ([Node(8, 2), Node(0, 4), Node(1, 4)], Share(1, 1), None, 3),
        ([Node(8, 2)], Share(1, 0.5), None, 4),
        ([Node(8, 2)], Share(1, 0.5), 3, 3),
        ([Node(0.3, 0)], Share(0.1, 0), None, 3),
    ],
)
def test_as_many_workers_as_fit_on_the_nodes(nodes, share, asked, workers):
    assert count_workers(nodes, share, asked) == workers


@pytest.mark.parametrize(
    ("nodes", "share", "asked", "text"),
    [
        (
            [Node(2, 0)],
            Share(1, 1),
            None,
            r"workers=1 of 1 cores and 1 GPUs each do not fit: .* room for 0 \(its nodes have 2 ",
        ),
        ([Node(8, 2)], Share(1, 1), 3, r"workers=3 .* room for 2 \(.*\)\. Ask for fewer --workers"),
        ([Node(3, 0), Node(3, 0)], Share(4, 0), 1, "room for 0"),
        ([], Share(1, 0), None, "no nodes"),
    ],
)
def test_workers_that_do_not_fit_are_refused(nodes, share, asked, text):
    with pytest.raises(ClusterError, match=text):
        count_workers(nodes, share, asked)


def test_each_worker_gets_a_gpu_where_there_are_some():
    assert [choose_gpus([Node(8, 0)]), choose_gpus([Node(8, 0), Node(8, 2)])] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"cpus": 0.0}, r"cpus_per_worker=0\.0 must be more than 0"),
        ({"cpus": float("nan")}, "cpus_per_worker=nan must be more than 0"),
        ({"gpus": -1.0}, "gpus_per_worker=-1"),
        ({"gpus": 1.5}, r"gpus_per_worker=1\.5 must be a whole number, or a part"),
    ],
)
def test_wrong_shares_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        RayExecutor(**options)
