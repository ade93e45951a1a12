"""Where a run comes from, and files written whole."""

import os

import pytest

from benchmarks.backends.models import describe_models
from benchmarks.output.files import write_atomically
from benchmarks.runs.provenance import RunConfig, describe_run, git_state, open_run


def config(models=None, **arguments):
    return describe_run("compare", {"suite": "smoke", "workers": 1, **arguments}, [3, 1], models or {})


def test_config_says_what_ran_where(tmp_path):
    open_run(tmp_path, config(), ())
    written = RunConfig.model_validate_json((tmp_path / "config.json").read_text())
    assert written.arguments == {"suite": "smoke", "workers": 1}
    assert written.seeds == [1, 3]
    assert written.packages["torch"].startswith("2.")
    assert written.machine.cpu
    assert written.machine.cores == os.cpu_count()


def test_a_run_may_go_on_at_another_pace_but_not_as_another_run(tmp_path):
    open_run(tmp_path, config(), ("workers",))
    open_run(tmp_path, config(workers=4), ("workers",))
    with pytest.raises(ValueError, match=r"suite was 'smoke', now 'babyai'.*Choose another --out"):
        open_run(tmp_path, config(suite="babyai", workers=4), ("workers",))


def test_another_model_behind_the_same_backend_is_refused(tmp_path):
    open_run(tmp_path, config({"baseline": {"model": "aa"}}), ())
    open_run(tmp_path, config({"baseline": {"model": "aa"}, "erecap": {"model": "aa"}}), ())
    with pytest.raises(ValueError, match=r"baseline was \{'model': 'aa'\}"):
        open_run(tmp_path, config({"baseline": {"model": "bb"}}), ())


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no configuration of a run"):
        open_run(tmp_path, config(), ())


def test_the_revision_is_that_of_this_tree():
    state = git_state()
    assert state is None or len(state.revision) == 40


def test_models_are_named_by_checksum_dtype_and_device(model_dir):
    from benchmarks.backends.registry import BackendFactory

    spec = f"baseline?model={model_dir}&dtype=float32&device=cpu"
    facts = describe_models([spec], BackendFactory())[spec]
    assert facts["dtype"] == "float32"
    assert facts["device"] == "cpu"
    assert len(facts["model"]) == 16
    assert "pruner" not in facts


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
