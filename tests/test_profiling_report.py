"""Profiles on a bare machine, and the script that measures everything on a GPU, tried on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

from erecap.profiling.replan_trace import PromptPart, ReplanTrace, TracedReplan
from erecap.profiling.results import read_result

ROOT = Path(__file__).parents[1]
BARE = """
import sys
names = "gymnasium minigrid pydantic typer structlog rich PIL matplotlib pandas accelerate"
for name in [*names.split(), "planner", "envs", "agents", "benchmarks"]:
    sys.modules[name] = None
from erecap.profiling.cli import main
codes = [main([*words.split(), "--out", path]) for words, path in zip(sys.argv[1::2], sys.argv[2::2])]
sys.exit(max(codes))
"""
FEW = "--lengths 96 --keep 1,0.7 --device cpu"


def test_runs_where_only_the_five_packages_are(tmp_path):
    measurements = {
        "prefill": f"prefill {FEW} --rounds 1 --new-lengths 1",
        "generate": f"generate {FEW} --rounds 1 --new-tokens 3",
        "env": "env --device cpu",
    }
    words = [word for name, text in measurements.items() for word in (text, str(tmp_path / f"{name}.json"))]
    done = subprocess.run([sys.executable, "-c", BARE, *words], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert [point["keep"] for point in read_result(tmp_path / "prefill.json")["points"]] == [1.0, 0.7]
    assert read_result(tmp_path / "prefill.json")["model"]["model_id"] == "bundled planner"
    assert [point["status"] for point in read_result(tmp_path / "generate.json")["points"]] == ["ok", "ok"]
    checks = {point["name"]: point for point in read_result(tmp_path / "env.json")["points"]}
    assert checks["bundled planner"]["found"].startswith("not checked here")
    assert "prompt_tokens 96, keep 0.7, status ok" in done.stderr


def short_trace(path):
    """Write two replans of a few tokens: those of the episode that ships begin at 1,800."""
    first, second = PromptPart(60, 2, ((0, 20), (50, 60))), PromptPart(90, 4, ((0, 20), (80, 90)))
    replans = (TracedReplan(None, first, (), (5, 2)), TracedReplan(None, second, (5,), (5, 2)))
    ReplanTrace("two replans", tuple(range(90)), (20, 60, 62, 90), (3,), (2,), replans).save(path)
    return str(path)


def test_the_gpu_report_runs_on_cpu(tmp_path_factory):
    tmp_path, trace = tmp_path_factory.mktemp("report"), short_trace(tmp_path_factory.mktemp("trace") / "replans.json")
    settings = {"DEVICE": "cpu", "SHAPE": "nano", "PYTHON": sys.executable, "TOTAL": "600", "TRACE": trace}
    done = subprocess.run(
        [ROOT / "tools" / "gpu_report.sh", tmp_path], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    for name in ("tests", "rates", "prefill", "generate", "sessions", "trace", "memory"):
        assert f"{name}: exit 0 after" in done.stdout
    names = {path.name for path in tmp_path.iterdir()}
    kinds = ("rates", "prefill", "generate", "sessions", "trace", "memory")
    assert names == {*(f"{kind}.json" for kind in kinds), "report.log"}
    for name in sorted(names - {"report.log"}):
        assert read_result(tmp_path / name)["complete"], name
    assert read_result(tmp_path / "prefill.json")["points"][-1]["new_lengths"] == 1
    assert "2 passed" in (tmp_path / "report.log").read_text()
