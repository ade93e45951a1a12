"""The profile's command line: on a bare machine, with files that survive a stop, and as one script."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from erecap.profiling import memory_profile, new_lengths, prefill_profile
from erecap.profiling.cli import main
from erecap.profiling.new_lengths import draw_rounds
from erecap.profiling.results import ResultFile, read_result

ROOT = Path(__file__).parents[1]
BARE = """
import sys
for name in "gymnasium minigrid pydantic typer structlog rich PIL matplotlib accelerate planner envs agents".split():
    sys.modules[name] = None
from erecap.profiling.cli import main
from erecap.profiling.new_lengths import draw_rounds
sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: str) -> int:
    return main([*arguments, "--device", "cpu", "--dtype", "float32"])


def test_runs_where_only_the_five_packages_are(tmp_path):
    out = tmp_path / "prefill.json"
    command = [sys.executable, "-c", BARE, "prefill", "--lengths", "128", "--keeps", "1,0.7", "--rounds", "1", "--device", "cpu"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert [point["keep"] for point in read_result(out)["points"]] == [1.0, 0.7]


def test_a_prefill_profile_says_what_was_dropped_and_counted(tmp_path, capsys):
    out = tmp_path / "prefill.json"
    assert run("prefill", "--lengths", "256", "--keeps", "1,0.7", "--rounds", "2", "--out", str(out)) == 0
    baseline, pruned = read_result(out)["points"]
    assert baseline["speedup"] == 1
    assert pruned["ceiling"] > 1.5
    assert pruned["layer_tokens"][0] == 256 > pruned["layer_tokens"][-1]
    assert baseline["kv_bytes"] > pruned["kv_bytes"]
    for point in (baseline, pruned):
        assert point["counted_flops"] == pytest.approx(point["analytic_flops"], rel=0.02)
        assert point["p25_ttft_ms"] <= point["median_ttft_ms"] <= point["p75_ttft_ms"]
    assert "of ceiling" in capsys.readouterr().out


def test_every_variant_meets_new_lengths_of_its_own():
    met = {96, 100}
    first = draw_rounds(100, 3, 2, met)
    second = draw_rounds(100, 3, 2, met)
    drawn = [tokens for round_ in (*first, *second) for tokens in round_]
    assert len(first) == 2
    assert len(second) == 1  # of 90..99 without 96 nine are free
    assert len(set(drawn)) == 9
    assert {*drawn, 96, 100} == {*range(90, 101)} == met
    assert max(max(round_) - min(round_) for round_ in (*first, *second)) <= 3


def test_a_prefill_profile_times_new_lengths_beside_met_ones(tmp_path, monkeypatch, capsys):
    seen = []

    def first_token(model, prompt, variant):
        seen.append((len(prompt), len(variant[0].stages)))
        return len(prompt) / (2 if variant[0].stages else 1)

    monkeypatch.setattr(new_lengths, "seconds_to_first_token", first_token)
    out = tmp_path / "prefill.json"
    arguments = ("--lengths", "100,105", "--keeps", "1,0.7", "--rounds", "1", "--new-lengths", "3", "--no-count")
    assert run("prefill", *arguments, "--out", str(out)) == 0
    points = read_result(out)["points"]
    assert [point["new_lengths"] for point in points] == [3] * 4
    assert [point["new_speedup"] for point in points] == pytest.approx([1, 2, 1, 2], rel=0.02)
    assert points[1]["new_speedup_of_met"] == pytest.approx(points[1]["new_speedup"] / points[1]["speedup"])
    assert points[0]["median_new_ttft_ms"] == pytest.approx(95e3, rel=0.06)
    assert len({length for length, _ in seen}) == len(seen) == 12
    assert not {length for length, _ in seen} & {100, 105}
    assert [stages > 0 for _, stages in seen[:6]] == [False, True, True, False, False, True]
    assert "of met" in capsys.readouterr().out


def test_a_generate_profile_compares_decoders(tmp_path):
    out = tmp_path / "generate.json"
    arguments = ("--lengths", "64", "--keeps", "1,0.7", "--new-tokens", "6", "--decoders", "eager,graph-split,graph-flash")
    assert run("generate", *arguments, "--out", str(out)) == 0
    *measured, refused = read_result(out)["points"]
    assert refused["decoder"] == "graph-flash"
    assert refused["status"].startswith("failed: ")
    assert [(point["decoder"], point["keep"]) for point in measured] == [
        ("eager", 1.0),
        ("eager", 0.7),
        ("graph-split", 1.0),
        ("graph-split", 0.7),
    ]
    assert all(point["tokens_like_first_decoder"] == 6 for point in measured)
    assert all(0 < point["prefill_share"] < 1 and point["mean_tpot_ms"] > 0 for point in measured)


def test_a_trace_puts_the_time_where_it_belongs(tmp_path, capsys):
    out = tmp_path / "trace.json"
    assert run("trace", "--lengths", "256", "--keeps", "1,0.7", "--out", str(out)) == 0
    baseline, pruned = (point["parts_ms"] for point in read_result(out)["points"])
    assert baseline["attention"] > 0
    assert baseline["linear"] > 0
    assert baseline["lm_head"] > 0
    assert baseline["scorer"] == baseline["gather"] == baseline["select"] == 0
    assert pruned["scorer"] > 0
    assert pruned["gather"] > 0
    assert pruned["select"] > 0
    assert baseline["other"] < 0.1 * sum(baseline.values())
    assert main(["show", str(out)]) == 0
    assert capsys.readouterr().out.count("lm_head") == 2


def test_memory_rates_and_env_answer(tmp_path):
    assert run("memory", "--lengths", "64,128", "--keeps", "1,0.7", "--out", str(tmp_path / "memory.json")) == 0
    assert [point["status"] for point in read_result(tmp_path / "memory.json")["points"]] == ["ok"] * 4
    assert run("rates", "--lengths", "64", "--out", str(tmp_path / "rates.json")) == 0
    assert read_result(tmp_path / "rates.json")["points"][0]["matmul_flops_per_s"] > 0
    assert run("env", "--out", str(tmp_path / "env.json")) == 0
    assert read_result(tmp_path / "env.json")["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prefill", "--lengths", "2000000"), "exceed the model's 1048576 positions"),
        (("generate", "--decoders", "swift"), "decoders swift are not known"),
        (("env", "--device", "cuda:7"), "'cuda:7' is not there"),
    ],
)
def test_bad_input_is_an_error_with_its_remedy(arguments, message, capsys):
    assert main([*arguments, "--dtype", "float32"]) == 1
    assert message in capsys.readouterr().err


def test_other_versions_are_refused(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(ValueError, match="version 0, this erecap reads 1: measure again"):
        read_result(tmp_path / "old.json")
    (tmp_path / "text.json").write_text("no")
    with pytest.raises(ValueError, match="not a JSON object"):
        read_result(tmp_path / "text.json")


def test_a_stopped_profile_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    measure = prefill_profile._measure_length

    def stop_at_96(model, variants, prompt, *rest):
        if prompt == 96:
            raise KeyboardInterrupt
        return measure(model, variants, prompt, *rest)

    monkeypatch.setattr(prefill_profile, "_measure_length", stop_at_96)
    out = tmp_path / "prefill.json"
    assert run("prefill", "--lengths", "64,96", "--keeps", "1", "--rounds", "1", "--out", str(out)) == 130
    assert [point["prompt_tokens"] for point in read_result(out)["points"]] == [64]
    assert "stopped" in capsys.readouterr().err


def fails_beyond(limit: int, prefill):
    """``prefill`` on a device without the memory for more than ``limit`` tokens."""

    def short_of_memory(model, prompt, *rest):
        if len(prompt) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return prefill(model, prompt, *rest)

    return short_of_memory


def test_out_of_memory_is_a_row(tmp_path, monkeypatch):
    for module, command in ((prefill_profile, "prefill"), (memory_profile, "memory")):
        monkeypatch.setattr(module, "prefill", fails_beyond(250, module.prefill))
        out = tmp_path / f"{command}.json"
        assert run(command, "--lengths", "64,300", "--keeps", "1,0.7", "--out", str(out)) == 0
        statuses = [point["status"].partition(":")[0] for point in read_result(out)["points"]]
        assert statuses == ["ok", "ok", "out of memory", "out of memory"]


def test_what_does_not_fit_into_the_time_is_left_out(tmp_path):
    out = tmp_path / "prefill.json"
    arguments = ("--lengths", "64,128", "--keeps", "1", "--rounds", "1", "--seconds", "0.001")
    assert run("prefill", *arguments, "--out", str(out)) == 0
    assert [point["status"][:8] for point in read_result(out)["points"]] == ["ok", "left out"]


def test_files_are_written_whole(tmp_path):
    file = ResultFile(tmp_path / "deep" / "a.json", kind="prefill")
    file.add({"prompt_tokens": 1})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]
    assert read_result(tmp_path / "deep" / "a.json")["kind"] == "prefill"


@pytest.mark.slow
def test_the_gpu_report_runs_on_cpu(tmp_path):
    settings = {"DEVICE": "cpu", "SHAPE": "nano", "PYTHON": sys.executable, "TOTAL": "600"}
    done = subprocess.run(
        [ROOT / "tools" / "gpu_report.sh", tmp_path], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "tests: exit 0" in done.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"rates.json", "prefill.json", "generate.json", "trace.json", "memory.json", "tests.xml", "report.log"}
    for name in sorted(names - {"tests.xml", "report.log"}):
        assert read_result(tmp_path / name)["points"], name
