"""Processes that work together, and what is measured between them."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from erecap.distributed.processes import ProcessFailedError, World, run_processes
from erecap.profiling import comm_profile
from erecap.profiling.comm_command import Communication, add_comm_options
from erecap.profiling.comm_profile import Crew, choose_crew, copy_rows, matrix_rows, pair_matrix, profile_comm, summary_rows
from erecap.profiling.comm_work import LEFT_OUT, CommPlan, bus_factor
from erecap.profiling.results import ResultFile

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.fixture
def process_work(fakes):
    """Work for processes, in a module that they can import."""
    return importlib.import_module("process_work")


def test_two_processes_agree_and_report_to_their_parent(process_work):
    heard = []
    run_processes(process_work.sum_of_ranks, 2, "gloo", ("more",), heard.append)
    assert sorted(heard) == [(0, 1.0, "more"), (1, 1.0, "more")]


def test_the_error_of_a_process_ends_the_others_and_is_raised(process_work):
    with pytest.raises(ProcessFailedError, match=r"process 1 of 2 failed: ValueError: the second process has had enough; the"):
        run_processes(process_work.fail_in_the_second, 2, "gloo")


def test_a_killed_process_ends_the_others(process_work):
    pids = []
    with pytest.raises(ProcessFailedError, match=r"process 1 of 2 died \(exit code -9\)"):
        run_processes(process_work.die_in_the_second, 2, "gloo", on_message=pids.append)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_gloo_between_two_processes(tmp_path):
    file = ResultFile(tmp_path / "comm.json", kind="comm")
    plan = CommPlan((4, 4096), rounds=3, seconds=60)
    profile_comm(Crew("gloo", 2), plan, CPU, file)
    points = json.loads((tmp_path / "comm.json").read_text())["points"]
    sends = [(p["source"], p["target"], p["size_bytes"]) for p in points if p["test"] == "send"]
    assert sends == [(0, 1, 4), (0, 1, 4096), (1, 0, 4), (1, 0, 4096)]
    sums = [p for p in points if p["test"] == "all_reduce"]
    assert [p["size_bytes"] for p in sums] == [4, 4096]
    for point in points:
        assert point["status"] == "ok"
        assert point["correct"] is True
        assert 0 < point["p25_time_us"] <= point["median_time_us"] <= point["p75_time_us"]
    for point in sums:
        assert point["algbw_bytes_per_s"] == pytest.approx(point["size_bytes"] / point["median_time_us"] * 1e6)
        assert point["busbw_bytes_per_s"] == pytest.approx(point["algbw_bytes_per_s"])  # 2 (n - 1) / n is 1 for two processes
    matrix = pair_matrix(points, 4096, "bandwidth_bytes_per_s")
    assert matrix[0][0] is matrix[1][1] is None
    assert matrix[0][1] > 0 < matrix[1][0]
    assert len(matrix_rows(points)) == 4
    assert len(summary_rows(points)) == len(points)


def test_what_does_not_fit_into_the_time_is_left_out():
    file = ResultFile(None)
    profile_comm(Crew("gloo", 2), CommPlan((4,), rounds=1, seconds=0), CPU, file)
    assert [point["status"] for point in file.points] == [LEFT_OUT] * 3
    assert [row["status"] for row in summary_rows(file.points)] == [LEFT_OUT] * 3
    assert matrix_rows(file.points) == []


@pytest.mark.slow
def test_a_world_of_torchrun_is_used(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import torch\n"
        "from erecap.profiling.comm_profile import choose_crew, profile_comm\n"
        "from erecap.profiling.comm_work import CommPlan\n"
        "from erecap.profiling.results import ResultFile\n"
        "crew = choose_crew(torch.device('cpu'), None)\n"
        "file = ResultFile(None)\n"
        "profile_comm(crew, CommPlan((4,), 1, 60), torch.device('cpu'), file)\n"
        "import sys; sys.stdout.write(f'POINTS {crew.writes} {len(file.points)}\\n')\n"  # one write, so that lines stay whole
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if "POINTS" in line) == ["POINTS False 0", "POINTS True 3"]


@pytest.mark.parametrize(("processes", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_bus_bandwidth_is_that_of_nccl_tests(processes, factor):
    assert bus_factor(processes) == factor


@pytest.mark.parametrize(
    ("device", "gpus", "asked", "expected"),
    [
        ("cpu", 0, None, Crew("gloo", 2)),
        ("cpu", 4, 3, Crew("gloo", 3)),
        ("cuda", 1, None, Crew("none", 1)),
        ("cuda", 4, None, Crew("nccl", 4)),
        ("cuda", 4, 2, Crew("nccl", 2)),
    ],
)
def test_who_takes_part(monkeypatch, device, gpus, asked, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_crew(torch.device(device), asked) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "asked", "message"),
    [("cpu", 0, 1, "at least 2"), ("cuda", 2, 4, "there are 2 GPUs"), ("cuda", 1, 2, "there are 1 GPUs")],
)
def test_who_cannot_take_part(monkeypatch, device, gpus, asked, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message):
        choose_crew(torch.device(device), asked)


def test_another_number_than_that_of_torchrun_is_refused(monkeypatch):
    monkeypatch.setattr(comm_profile, "torchrun_world", lambda backend: World.of(0, 2, backend))
    with pytest.raises(ValueError, match="torchrun started 2"):
        choose_crew(CPU, 3)
    assert choose_crew(CPU, None).writes


def test_one_gpu_alone_measures_copies():
    rows = list(copy_rows(CPU, CommPlan((1024,), rounds=2, seconds=1)))
    assert [row["test"] for row in rows] == ["copy", "host to device", "device to host"]
    assert all(row["bandwidth_bytes_per_s"] > 0 for row in summary_rows_in(rows))


def summary_rows_in(rows):
    assert [line["test"] for line in summary_rows(rows)] == [row["test"] for row in rows]
    return rows


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_comm_options(parser)
    parser.add_argument("--seconds", type=float, default=1.0)
    return Communication.of(parser.parse_args(arguments), CPU)


def test_options_become_a_plan():
    chosen = parse("--sizes", "1MiB,4,1KiB", "--rounds", "3", "--processes", "3")
    assert chosen.plan == CommPlan((4, 1024, 1 << 20), 3, 1.0)
    assert chosen.cases == 3 * (6 + 1)
    assert chosen.facts()["processes"] == 3


@dataclass(frozen=True)
class Bad:
    arguments: tuple[str, ...]
    message: str


@pytest.mark.parametrize(
    "bad",
    [
        Bad(("--sizes", "6"), "no multiples of 4"),
        Bad(("--sizes", "many"), "'many' is not a number of bytes"),
        Bad(("--rounds", "0"), "at least 1"),
        Bad(("--processes", "1"), "at least 2"),
    ],
)
def test_bad_options_are_errors(bad):
    with pytest.raises(ValueError, match=bad.message):
        parse(*bad.arguments)
