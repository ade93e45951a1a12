"""Predictions on the command line: inputs from result files, errors, and what the points hold."""

import json
from pathlib import Path

import pytest

from erecap.calibration.cost_model import CostModel
from erecap.calibration.machines import named_machine
from erecap.calibration.paper_model import ModelWork, Split
from erecap.profiling.cli import main
from erecap.profiling.layer_counts import tokens_by_layer
from erecap.profiling.predict_inputs import MeasuredFile, calibrated, with_rates
from erecap.profiling.predict_profile import choose_splits
from erecap.profiling.results import read_result
from erecap.profiling.shapes import shape_config
from erecap.profiling.units import format_bytes, parse_byte_rate, parse_bytes, parse_flop_rate, parse_seconds

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
QWEN = ModelWork.of(shape_config("qwen2-7b"), 2)
H200 = named_machine("8xh200")


def about(value):
    """``value`` but for the rounding of files to six digits."""
    return pytest.approx(value, rel=1e-5)


def predict(tmp_path, *arguments):
    out = tmp_path / "predict.json"
    assert main(["predict", *map(str, arguments), "--out", str(out)]) == 0
    return read_result(out)


def test_a_prediction_compares_with_one_device(tmp_path, capsys):
    content = predict(tmp_path, "--lengths", "4096", "--keeps", "0.7", "--gpus", "4")
    points = {(p["parallel"], p["devices"], p["keep"]): p for p in content["points"]}
    assert list(points) == [(way, n, keep) for way, n in (("single", 1), ("pipeline", 4), ("tensor", 4)) for keep in (1.0, 0.7)]
    alone, pruned = points["single", 1, 1.0], points["single", 1, 0.7]
    for (way, devices, keep), point in points.items():
        same = points["single", 1, keep]
        assert point["predicted_speedup_over_single"] == about(same["predicted_ttft_ms"] / point["predicted_ttft_ms"])
        assert point["predicted_speedup_over_single_baseline"] == about(alone["predicted_ttft_ms"] / point["predicted_ttft_ms"])
        unpruned = points[way, devices, 1.0]["predicted_ttft_ms"]
        assert point["predicted_speedup_over_baseline"] == about(unpruned / point["predicted_ttft_ms"])
    assert points["pipeline", 4, 0.7]["predicted_speedup_over_single"] < 1
    stages = pruned["stages"]
    assert [stage["layers"] for stage in stages][:2] == ["0-4", "5-7"]
    assert sum(stage["predicted_busy_ms"] for stage in stages) == pytest.approx(pruned["predicted_ttft_ms"], rel=0.02)
    assert sum(stage["prefill_traffic_bytes"] for stage in points["tensor", 4, 0.7]["stages"]) == pytest.approx(
        points["tensor", 4, 0.7]["prefill_traffic_bytes"]
    )
    assert content["complete"] is True
    shown = capsys.readouterr().out
    assert "predicted ttft ms" in shown
    assert "All times above are predictions. Accuracy on one device: median error " in shown


def test_traffic_of_the_boundaries_is_counted(tmp_path):
    content = predict(tmp_path, "--lengths", "32768", "--keeps", "1", "--gpus", "8", "--parallel", "pipeline")
    pipeline = next(point for point in content["points"] if point["parallel"] == "pipeline")
    assert pipeline["prefill_traffic_bytes"] == 7 * 32768 * 3584 * 2


def test_what_does_not_fit_is_a_row(tmp_path):
    content = predict(tmp_path, "--shape", "qwen2-72b", "--lengths", "1024", "--keeps", "1", "--gpus", "8")
    alone, *others = content["points"]
    assert alone["status"] == "does not fit: 146 GB on a device of 141"
    assert [point["status"] for point in others] == ["ok", "ok"]
    assert all(point["predicted_speedup_over_single"] is None for point in others)


def test_errors_are_stated_against_measured_files(tmp_path, capsys):
    seed = RESULTS / "seed-rtx5880"
    content = predict(
        tmp_path, "--machine", "8xrtx5880", "--lengths", "1024", "--keeps", "1",
        "--calibrate", seed / "prefill.json", "--compare", seed / "prefill-8gpu.json",
    )  # fmt: skip
    errors = content["errors"]
    assert content["rates"]["efficiency"]["basis"] == "stated"
    assert len(errors) == 18 + 12
    assert all(abs(row["error"]) < 0.11 for row in errors if row["devices"] == 1)
    assert all(abs(row["held_out_error"]) < 0.13 for row in errors if row["devices"] == 1)
    worst = [row for row in errors if row["devices"] == 8 and row["prompt_tokens"] == 32768]
    assert [round(row["measured_ms"] / row["predicted_ms"], 1) for row in worst] == [15.4, 1.0]
    assert "prefill-8gpu.json" in capsys.readouterr().out


def test_calibration_changes_the_machine_and_names_its_files():
    files = [
        MeasuredFile.read(RESULTS / "nvidia-h200" / name, ("prefill", "generate")) for name in ("prefill.json", "generate.json")
    ]
    fitted = calibrated(H200, QWEN, files).efficiency
    assert fitted.source.endswith("prefill.json")
    assert fitted.step_source.endswith("generate.json")
    assert (fitted.basis, fitted.step_basis) == ("measured", "measured")
    assert fitted.largest_error < 0.25
    assert fitted.linear != H200.efficiency.linear


def comm_result(path: Path) -> Path:
    points = [
        {"test": "send", "source": a, "target": 1 - a, "size_bytes": size, "status": "ok", "median_time_us": 10.0 + size / 1e3,
         "bandwidth_bytes_per_s": 1e9 * (1 + a)}
        for a in (0, 1) for size in (4, 1 << 20)
    ]  # fmt: skip
    points += [
        {"test": "all_reduce", "processes": 2, "size_bytes": size, "status": "ok", "median_time_us": 30.0 + size / 1e3,
         "algbw_bytes_per_s": 2e9, "busbw_bytes_per_s": 2e9}
        for size in (4, 1 << 20)
    ]  # fmt: skip
    path.write_text(json.dumps({"version": 1, "kind": "comm", "machine": {"device_name": "two"}, "points": points}))
    return path


def test_rates_come_from_result_files(tmp_path):
    measured = with_rates(H200, RESULTS / "nvidia-h200" / "rates.json")
    assert measured.matrix_flops_per_s.value == pytest.approx(H200.matrix_flops_per_s.value, rel=0.05)
    assert measured.memory_bytes_per_s.basis == "measured"
    assert measured.efficiency == H200.efficiency, "the same machine"
    linked = with_rates(measured, comm_result(tmp_path / "comm.json"))
    assert linked.devices == 2
    assert linked.link.bytes_per_s.value == 1.5e9
    assert linked.link.latency_s.value == pytest.approx(10.004e-6)
    assert linked.link.bus_bytes_per_s.value == 2e9
    assert linked.link.all_reduce_s.value == pytest.approx(30.004e-6)
    with pytest.raises(ValueError, match="is a result of 'memory': give one of rates, comm"):
        with_rates(H200, RESULTS / "nvidia-h200" / "memory.json")


def test_another_machine_s_efficiencies_are_marked(tmp_path, capsys):
    rates = {"version": 1, "kind": "rates", "machine": {"device_name": "abacus"}, "points": [{"matmul_flops_per_s": 1e12}]}
    (tmp_path / "rates.json").write_text(json.dumps(rates))
    content = predict(tmp_path, "--rates", tmp_path / "rates.json", "--lengths", "64", "--gpus", "2")
    assert content["machine"]["device_name"] == "2 x abacus"
    assert content["rates"]["efficiency"]["basis"] == content["rates"]["link"]["bytes_per_s"]["basis"] == "carried over"
    assert "the efficiencies were not held against a measurement of this machine" in capsys.readouterr().out


def test_given_figures_are_marked(tmp_path):
    content = predict(tmp_path, "--lengths", "64", "--link", "12GB/s", "--latency", "40us", "--matrix", "100TFLOP/s", "--gpus", "2")
    link = content["rates"]["link"]
    assert link["bytes_per_s"] == {"value": 12e9, "basis": "given", "source": "option --link"}
    assert link["bus_bytes_per_s"]["value"] == 12e9
    assert link["all_reduce_s"]["value"] == pytest.approx(40e-6)
    assert content["rates"]["matrix_flops_per_s"]["value"] == 100e12
    assert content["machine"]["device_name"] == "2 x NVIDIA H200"


def test_splits_follow_the_heads():
    splits, remarks = choose_splits(QWEN, 8, [])
    assert splits == [Split("pipeline", 8), Split("tensor", 4)]
    assert "do not divide by 8" in remarks[0]
    assert choose_splits(QWEN, 4, []) == ([Split("pipeline", 4), Split("tensor", 4)], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--link", "12"), "--link '12' is not a bandwidth with its unit, such as 12GB/s"),
        (("--latency", "3"), "--latency '3' is not a time with its unit"),
        (("--machine", "abacus"), "machine 'abacus' is not known: use 8xh200 or 8xrtx5880"),
        (("--gpus", "8", "--parallel", "tensor"), "do not divide by 8 devices"),
        (("--parallel", "sideways"), "--parallel sideways is not known"),
        (("--gpus", "1"), "takes at least 2"),
        (("--captured",), "add --cost-out FILE"),
        (("--cost-out", "cost.json"), "at least two prompt lengths"),
        (("--shape", "nano", "--calibrate", str(RESULTS / "nvidia-h200" / "prefill.json")), "28 layers"),
        (("--calibrate", str(RESULTS / "nvidia-h200" / "memory.json")), "is a result of 'memory'"),
        (("--rates", "nothing.json"), "cannot be read"),
    ],
)
def test_bad_input_is_an_error_with_its_remedy(arguments, message, tmp_path, capsys):
    assert main(["predict", *arguments, "--lengths", "64", "--out", str(tmp_path / "p.json")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("captured", [False, True])
def test_a_cost_model_gives_the_predictions_back(captured, tmp_path, capsys):
    options = ["--captured"] if captured else []
    content = predict(
        tmp_path, "--lengths", "1024,2048,4096,8192", "--keeps", "0.7", "--cost-out", tmp_path / "cost.json", *options
    )
    cost = CostModel.load(tmp_path / "cost.json")
    assert cost.basis.startswith("PREDICTED, not measured, for one NVIDIA H200")
    assert "PREDICTED, not measured" in capsys.readouterr().out
    assert (cost.setting.model.name, cost.setting.model.num_layers, cost.setting.dtype) == ("qwen2-7b", 28, "bfloat16")
    tpot_name = "predicted_captured_tpot_ms" if captured else "predicted_tpot_ms"
    for point in content["points"]:
        if point["devices"] == 1:
            tokens = tokens_by_layer(point["prompt_tokens"], point["keep"], 28)
            assert cost.prefill_s(tokens) == pytest.approx(point["predicted_ttft_ms"] / 1e3, rel=0.15)
            assert cost.decode_s(tokens, 101) / 100 == pytest.approx(point[tpot_name] / 1e3, rel=0.05)


def test_units():
    assert parse_byte_rate("12.5GB/s") == 12.5e9
    assert parse_byte_rate("1 GiB/s") == 1 << 30
    assert parse_flop_rate("277.2TFLOP/s") == 277.2e12
    assert parse_bytes("64KiB") == 65536
    assert parse_bytes("8") == 8
    assert parse_seconds("40us") == pytest.approx(40e-6)
    assert [format_bytes(size) for size in (4, 65536, 16 << 20)] == ["4 B", "64 KiB", "16 MiB"]
    for parse, text in ((parse_byte_rate, "0GB/s"), (parse_byte_rate, "GB/s"), (parse_bytes, "1.5"), (parse_seconds, "soon")):
        with pytest.raises(ValueError, match=f"'{text}'"):
            parse(text)


def test_stated_figures_are_shown_as_such(capsys):
    assert main(["show", str(RESULTS / "seed-rtx5880" / "prefill-8gpu.json")]) == 0
    assert "stated: Qwen2-7B-Instruct" in capsys.readouterr().out
