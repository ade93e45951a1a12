"""Episodes on a real Ray cluster on this machine. Each test starts one, away from the real home folder."""

import json
import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FAKES = ROOT / "tests" / "fakes"
MEASURED = {"digest", "peak_memory_bytes"}  # besides all times, which end in _s
LIMIT_S = 500
# A process that is started in the background may ignore Ctrl-C.
COMMAND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from benchmarks.cli import main; main()"
HEAD = """
import ray, sys
context = ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, _temp_dir=sys.argv[1])
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""

RUN = partial(subprocess.run, timeout=LIMIT_S, check=False)


@pytest.fixture
def erecap(tmp_path, short_folder):
    """``erecap(*arguments)`` runs the command line in a process with a home of its own; it finds the modules of ``fakes``."""
    home = tmp_path / "home"
    home.mkdir()

    def run(*arguments, start=RUN):
        command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env |= {"HOME": str(home), "PYTHONPATH": f"{ROOT}{os.pathsep}{FAKES}", "OMP_NUM_THREADS": "1"}
        env |= {"RAY_TMPDIR": str(short_folder), "RAY_USAGE_STATS_ENABLED": "0"}
        return start(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return run


@pytest.fixture
def head(short_folder, tmp_path):
    """The address of a cluster of 2 cores that knows nothing of the paths of this process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "PYTHONPATH"}
    env |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    (short_folder / "head").mkdir()
    command = [sys.executable, "-c", HEAD, str(short_folder / "head")]
    with subprocess.Popen(command, env=env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()
        process.wait(LIMIT_S)


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(v) for key, v in value.items() if not key.endswith("_s") and key not in MEASURED}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def records(out):
    lines = (out / "steps.jsonl").read_text().splitlines()
    return sorted(json.dumps(without_times(json.loads(line)), sort_keys=True) for line in lines)


def test_a_run_on_ray_is_a_run_on_this_machine(erecap, tmp_path, short_folder):
    """The bundled planner, pruned and not: same records, same summary but for times, and nothing is left behind."""
    options = ("--suite", "smoke", "--backends", "baseline,erecap?keep=0.7", "--episodes", "2", "--replay-prompts", "2")
    done = [erecap("compare", *options, "--out", tmp_path / "here")]
    done.append(erecap("compare", *options, "--executor", "ray", "--out", tmp_path / "ray"))
    assert [process.returncode for process in done] == [0, 0], done[-1].stderr
    assert records(tmp_path / "here") == records(tmp_path / "ray")
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("here", "ray")]
    assert without_times(summaries[0]["backends"]) == without_times(summaries[1]["backends"])
    assert json.loads(done[-1].stdout.splitlines()[-1])["complete"]
    assert list(short_folder.iterdir()) == []
    assert not (tmp_path / "home" / ".ray").exists()


def test_a_worker_that_dies_is_replaced(erecap, tmp_path):
    """The first answer of this backend kills its worker; the episode is played again by another one."""
    (tmp_path / "marks").mkdir()
    backend = f"mortal:make?marks={tmp_path}/marks"
    options = ("--env", "ERecap/HouseholdSmall-v0", "--episodes", "2", "--workers", "2", "--executor", "ray")
    done = erecap("run", "--backend", backend, *options, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("a worker died; its episode is played once more") == 1
    assert json.loads(done.stdout.splitlines()[-1])["backends"][backend]["episodes"] == 2


def test_ctrl_c_keeps_what_is_there_and_ends_the_workers(erecap, tmp_path, short_folder):
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    options = ("--env", "my_kitchen:Kitchen-v0", "--episodes", "3", "--workers", "1", "--executor", "ray")
    backend = f"mortal:make_hanging?pipe={tmp_path}/pipe"
    popen = partial(subprocess.Popen, start_new_session=True)
    with erecap("run", "--backend", backend, *options, "--out", tmp_path / "out", start=popen) as process:
        assert select.select([pipe], [], [], LIMIT_S)[0], "the worker does not hang in its second episode"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    last = json.loads(out.splitlines()[-1])
    assert (last["complete"], last["backends"][backend]["episodes"]) == (False, 1)
    assert "the same command continues the run" in err
    assert list(short_folder.iterdir()) == []
    os.close(pipe)


def test_a_cluster_that_runs_already_gets_the_users_code(erecap, head, tmp_path):
    """Its workers find a user's environment by the path of the command, or in the folder that is copied to them."""
    options = ("--env", "my_kitchen:Kitchen-v0", "--backend", "own_planner:make?skill=open fridge", "--episodes", "2")
    for number, more in enumerate([(), ("--working-dir", FAKES)]):
        done = erecap("run", *options, "--executor", "ray", "--address", head, *more, "--out", tmp_path / f"{number}")
        assert done.returncode == 0, done.stderr
    assert records(tmp_path / "0") == records(tmp_path / "1")
    wrong = erecap("run", *options, "--executor", "ray", "--address", head, "--workers", "3", "--out", tmp_path / "2")
    assert wrong.returncode != 0
    assert "the cluster has room for 2 (its nodes have 2 cores and 0 GPUs)" in wrong.stderr
    assert "Traceback" not in wrong.stderr
