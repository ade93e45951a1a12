"""Where a comparison is played: the options, other machines, the order in which episodes end, and two runs in one directory."""

import importlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.episode_log import EpisodeLog
from agents.loop import AgentConfig
from benchmarks.backends.models import AlikeFactory
from benchmarks.cluster.executor import RayExecutor
from benchmarks.cluster.pool import ClusterPool
from benchmarks.cluster.protocol import Share
from benchmarks.commands import executors
from benchmarks.comparison.run import Comparison, run_comparison
from benchmarks.output.code_state import code_state
from benchmarks.runs.closed_loop import ClosedLoop
from benchmarks.runs.executors import LocalExecutor
from benchmarks.runs.progress import ComparisonProgress
from benchmarks.runs.suites import Suite

BACKENDS = ("baseline", "erecap?keep=0.5")


@dataclass(frozen=True)
class FakeExecutor:
    """Plays on a fake cluster of two workers."""

    module: object
    threads: int = 1

    def settings(self):
        return {"name": "fake", "workers": 2, "address": "nowhere"}

    @contextmanager
    def open(self):
        pool = ClusterPool(self.module.FakeCluster(), Share(1, 0), 2, code_state())
        yield pool
        pool.close()


@pytest.fixture
def elsewhere(fakes):
    return FakeExecutor(importlib.import_module("fake_cluster"))


def comparison(out: Path, **options):
    suite = Suite("fake-suite", "for tests", ("fake",))
    return Comparison("compare", ClosedLoop(suite, BACKENDS, 7, 0, AgentConfig()), out, replay_prompts=4, **options)


def run(fakes, what, make_backend=None, make_here=None):
    maker = make_backend or fakes.fake_backend
    return run_comparison(what, maker, ComparisonProgress(what.loop), fakes.fake_episode, make_here).summary


def other_model(fakes, dtype="torch.float16", **loaded):
    """Make backends whose model has another dtype."""

    def make(spec):
        backend = fakes.fake_backend(spec)
        if backend is not None:
            vars(backend.loaded).update(dtype=dtype, **loaded)
        return backend

    return make


def test_a_comparison_on_a_cluster_gives_what_one_process_gives(fakes, elsewhere, tmp_path):
    here = run(fakes, comparison(tmp_path / "here"))
    there = run(fakes, comparison(tmp_path / "there", executor=elsewhere))
    assert here == there
    lines = [(tmp_path / name / "steps.jsonl").read_text().splitlines() for name in ("here", "there")]
    assert sorted(lines[0]) == sorted(lines[1])
    assert lines[0] != lines[1], "the episodes ended in the same order, which tests less"
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("here", "there")]
    assert configs[0]["models"] == configs[1]["models"]
    assert configs[1]["arguments"]["executor"] == elsewhere.settings()


def test_a_run_goes_on_where_it_is_not_played_first(fakes, elsewhere, tmp_path):
    run(fakes, comparison(tmp_path))
    before = (tmp_path / "steps.jsonl").read_bytes()
    for executor in (elsewhere, LocalExecutor(2), LocalExecutor()):
        assert run(fakes, comparison(tmp_path, executor=executor)).complete
    assert (tmp_path / "steps.jsonl").read_bytes() == before


def test_a_run_from_before_there_were_executors_goes_on(fakes, tmp_path):
    run(fakes, comparison(tmp_path))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["arguments"]["workers"] = config["arguments"].pop("executor")["workers"] + 1
    path.write_text(json.dumps(config))
    assert run(fakes, comparison(tmp_path)).complete


def test_a_replay_of_another_model_than_the_workers_is_refused(fakes, elsewhere, tmp_path):
    what = comparison(tmp_path, executor=elsewhere)
    with pytest.raises(ValueError, match=r"dtype float16.* here and .*dtype float32.* in the workers.*--replay-prompts 0"):
        run(fakes, what, make_here=other_model(fakes))
    assert not (tmp_path / "steps.jsonl").exists()


def test_workers_with_other_models_than_the_first_are_refused(fakes):
    models = {"baseline": {"name": "fake", "model": "0123", "dtype": "float32", "device": "cpu"}}
    assert AlikeFactory(fakes.fake_backend, models)("baseline").keep == 1.0
    assert AlikeFactory(fakes.fake_backend, models)("expert") is None
    with pytest.raises(ValueError, match=r"'baseline' is .*dtype float16.* on .*, .*dtype float32.* in the first worker"):
        AlikeFactory(other_model(fakes), models)("baseline")


def test_a_second_run_is_refused_before_anything_is_loaded_or_written(fakes, tmp_path):
    run(fakes, comparison(tmp_path))
    before = (tmp_path / "config.json").read_bytes()

    def never(spec):
        raise AssertionError("a model was loaded")

    with EpisodeLog(tmp_path / "steps.jsonl"), pytest.raises(ValueError, match="is being written by another run"):
        run(fakes, comparison(tmp_path, executor=LocalExecutor(2)), never)
    assert (tmp_path / "config.json").read_bytes() == before


def test_options_of_ray_reach_its_executor(tmp_path):
    options = executors.RayOptions("auto", None, 0.5, tmp_path)
    assert executors.make("ray", None, options) == RayExecutor("auto", None, 1.0, 0.5, tmp_path)
    assert executors.make("ray", 3, executors.RayOptions(cpus_per_worker=2.0)).threads == 2
    assert executors.make("local", None, executors.RayOptions()) == LocalExecutor(1)


@pytest.mark.parametrize("command", ["run", "compare", "ablate"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--executor", "slurm"), "executor 'slurm' is unknown: choose from local, ray"),
        (("--address", "auto"), "--address is for Ray: add --executor ray"),
        (("--gpus-per-worker", "1", "--working-dir", "."), "--gpus-per-worker, --working-dir are for Ray"),
        (("--executor", "ray", "--workers", "0"), "workers=0 must be at least 1: leave it out"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(invoke, tmp_path, command, options, text):
    done = invoke(command, "--out", tmp_path / "out", *options)
    assert done.exit_code == 1
    assert isinstance(done.exception, ValueError)
    assert text in str(done.exception)
    assert not (tmp_path / "out").exists()
