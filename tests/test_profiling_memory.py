"""Memory of a CPU: readings of fresh processes beside the formula, limits, and processes that die."""

import os
import signal
from argparse import Namespace
from functools import partial

import pytest

from erecap.models import host_memory
from erecap.profiling.cli import main
from erecap.profiling.measurement import make_variant
from erecap.profiling.memory_child import measure_in_child
from erecap.profiling.results import read_result
from erecap.profiling.shapes import shape_config

pytestmark = pytest.mark.skipif(not host_memory.is_measurable(), reason="the resident set can be set back on Linux only")

NANO = Namespace(
    model=None, shape="nano", device="cpu", dtype="float32", attention="sdpa", pruner=None, selector="learned", keeps=(1.0, 0.7)
)


def measure(make, length: int = 64, limit_bytes: int | None = None, seconds: float = 120.0):
    return measure_in_child(make, length, 1, limit_bytes, seconds)


def test_the_reading_is_near_the_formula_and_the_run_survives_its_limit(tmp_path, capsys):
    out = tmp_path / "memory.json"
    words = ("memory", "--shape", "nano", "--device", "cpu", "--dtype", "float32", "--out", str(out))
    assert main([*words, "--lengths", "1024", "--keep", "1,0.7"]) == 0
    baseline, pruned = read_result(out)["points"]
    for point in (baseline, pruned):
        assert point["peak_memory_bytes"] - point["resident_before_bytes"] == point["prefill_bytes"]
        assert 0.8 < point["prefill_bytes"] / point["formula_prefill_bytes"] < 1.6
        assert point["formula_bytes"] - point["formula_prefill_bytes"] == pytest.approx(point["weight_bytes"], rel=0.01)
    assert pruned["prefill_bytes"] < 0.9 * baseline["prefill_bytes"]
    assert "of formula" in capsys.readouterr().out
    limit_gib = (baseline["resident_before_bytes"] + 2e6) / 2**30
    assert main([*words, "--lengths", "64,1024,1025", "--keep", "1", "--limit-gib", str(limit_gib)]) == 0
    statuses = [point["status"].partition(":")[0] for point in read_result(out)["points"]]
    assert statuses == ["ok", "out of memory", "left out"]


def test_a_process_that_dies_is_a_row():
    assert measure(partial(os._exit, 7))["status"] == "out of memory: the process was ended (exit status 7)"
    assert measure(partial(signal.raise_signal, signal.SIGKILL))["status"] == "out of memory: the process was ended (SIGKILL)"


def test_a_process_that_takes_too_long_is_ended():
    assert measure(signal.pause, seconds=0.1)["status"] == "left out: it took longer than --seconds allows"


def test_a_user_s_error_of_the_process_is_raised():
    with pytest.raises(ValueError, match="shape 'gpt' is not known"):
        measure(partial(shape_config, "gpt"))


def test_a_limit_below_the_model_is_a_row():
    assert measure(partial(make_variant, NANO, 0.7), limit_bytes=1 << 20)["status"].startswith("out of memory: the model alone")


def test_what_the_formula_puts_above_the_limit_is_not_run(tmp_path):
    out = tmp_path / "memory.json"
    words = (
        "--lengths",
        "1000000",
        "--keep",
        "1,0.7",
        "--limit-gib",
        "0.5",
        "--shape",
        "nano",
        "--device",
        "cpu",
        "--out",
        str(out),
    )
    assert main(["memory", *words, "--dtype", "float32"]) == 0
    for point in read_result(out)["points"]:
        assert point["status"] == "out of memory: by the formula it exceeds the limit of 0.54 GB"


def test_the_container_s_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path)
    without = host_memory.available_bytes()
    for name, text in (
        ("memory.max", "5000000\n"),
        ("memory.current", "4000000\n"),
        ("memory.stat", "anon 1\ninactive_file 500000\n"),
    ):
        (tmp_path / name).write_text(text)
    assert host_memory.available_bytes() == 1_500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory.available_bytes() == pytest.approx(without, rel=0.2)
