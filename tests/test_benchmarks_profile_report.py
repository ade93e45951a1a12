"""The report of profile results: figures and one page from fake and from published result files."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.commands.profile_report import run_report
from benchmarks.commands.profile_tables import run_tables
from benchmarks.reports import profile_devices_figures, profile_figures
from benchmarks.reports.profile_columns import explain
from benchmarks.reports.profile_page import Table
from benchmarks.reports.profile_plots import write_profile_plot
from benchmarks.reports.profile_report import write_profile_report
from benchmarks.reports.profile_results import Result, read_results, single_device_groups
from benchmarks.reports.profile_tables import TableRequest
from erecap.profiling.cli import main

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MACHINE = {"device_name": "abacus", "torch": "2.99"}
MODEL = {"model_id": "tiny <b>bold</b>", "dtype": "float32", "attention": "sdpa"}


def write(path: Path, kind: str, points, **facts) -> Path:
    content = {"version": 1, "kind": kind, "command": f"measure {kind}", "machine": MACHINE, "model": MODEL, "points": points}
    path.write_text(json.dumps(content | facts))
    return path


def prefill_points():
    return [
        {"prompt_tokens": n, "keep": keep, "status": "ok", "median_ttft_ms": n * keep, "p25_ttft_ms": n * keep * 0.9,
         "p75_ttft_ms": n * keep * 1.1, "speedup": 1 / keep, "ceiling": 1.1 / keep, "analytic_flops": n * keep * 1e9, **OTHER,
         "peak_memory_bytes": 1e9 + n, "kv_bytes": n}
        for n in (256, 512) for keep in (1.0, 0.7)
    ]  # fmt: skip


OTHER = {"kept_share": 0.5, "share_of_matmul": 0.5, "achieved_flops_per_s": 1e9, "scoring_share": 0.01, "selecting_share": 0.01}
TIME = {"median_time_us": 2.0, "p25_time_us": 1.0, "p75_time_us": 3.0}


def send(source, target):
    return {"test": "send", "source": source, "target": target, "size_bytes": 4, "status": "ok", **TIME,
            "bandwidth_bytes_per_s": 1e9}  # fmt: skip


def comm_points():
    total = {"test": "all_reduce", "processes": 2, "size_bytes": 4, "status": "ok", **TIME}
    return [send(0, 1), send(1, 0), total | {"algbw_bytes_per_s": 1e9, "busbw_bytes_per_s": 1e9}]


def test_a_report_holds_everything_in_one_page(tmp_path):
    write(tmp_path / "prefill.json", "prefill", prefill_points())
    write(tmp_path / "comm.json", "comm", comm_points())
    assert main(["predict", "--lengths", "256,512", "--keeps", "0.7", "--out", str(tmp_path / "predict.json")]) == 0
    written = write_profile_report([tmp_path], tmp_path / "out")
    assert [path.name for path in written] == ["report.html", "single-device-1.png", "several-devices-1.png", "comm-1.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])
    page = written[0].read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"""(src|href)=["'](?!data:image/png;base64,|#)""", page), "the page needs other files"
    assert "<b>bold</b>" not in page, "a model's name is text, not HTML"
    for words in (
        "measure prefill",
        "abacus",
        "torch 2.99",
        "version 1",
        "every time in this file is a prediction",
        "Not measured",
    ):
        assert words in page
    assert "memory: `erecap profile memory`" in page
    assert f"<td>{256 * 0.7:.6g}</td>" in page
    assert "not explained here" not in page


def test_predictions_are_called_so_in_every_caption(tmp_path, monkeypatch):
    assert main(["predict", "--lengths", "256", "--keeps", "0.7", "--out", str(tmp_path / "predict.json")]) == 0
    drawn = []
    monkeypatch.setattr(profile_devices_figures, "_legend", lambda figure, points: drawn.append(figure))
    write_profile_report([tmp_path], tmp_path / "out")
    (figure,) = drawn
    assert "PREDICTED" in figure.get_suptitle()
    bars = [bar for axes in figure.axes for bar in axes.patches]
    assert bars
    assert all(bar.get_hatch() == profile_devices_figures.HATCH for bar in bars)


def test_missing_kinds_leave_a_labelled_gap(tmp_path):
    write(tmp_path / "memory.json", "memory", [{"prompt_tokens": 256, "keep": 1.0, "status": "out of memory: all of it"}])
    (group,) = single_device_groups(read_results([tmp_path]))
    texts = [text.get_text() for axes in profile_figures.single_device_figure(group).axes for text in axes.texts]
    assert texts == [*["not measured\n`erecap profile prefill`"] * 3, "not measured\n`erecap profile memory`"]
    lines = (tmp_path / "memory.json", write(tmp_path / "env.json", "env", []))
    assert [path.name for path in write_profile_report(lines, tmp_path / "out")] == ["report.html", "single-device-1.png"]


def test_ceilings_are_dashed(tmp_path):
    write(tmp_path / "prefill.json", "prefill", prefill_points())
    (group,) = single_device_groups(read_results([tmp_path]))
    speedup = profile_figures.single_device_figure(group).axes[1]
    dashed = [line for line in speedup.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [pytest.approx([1.1 / 0.7] * 2)]


def test_other_versions_are_refused_with_their_name(tmp_path):
    write(tmp_path / "good.json", "prefill", prefill_points())
    write(tmp_path / "old.json", "prefill", [], version=0)
    with pytest.raises(ValueError, match=r"old\.json has version 0, this erecap reads 1"):
        write_profile_report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_without_its_figures_is_named(tmp_path):
    write(tmp_path / "torn.json", "prefill", [{"prompt_tokens": 256, "keep": 1.0, "status": "ok", "median_ttft_ms": 1.0}])
    with pytest.raises(ValueError, match=r"torn\.json lacks the figure 'kept_share'"):
        write_profile_report([tmp_path], tmp_path / "out")


@pytest.mark.parametrize(("name", "message"), [("missing", "is not there"), ("empty", "holds no result file")])
def test_directories_without_results_are_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        write_profile_report([tmp_path / name], tmp_path / "out")


def test_the_tables_of_the_page_on_devices_are_those_of_the_files(capsys):
    assert run_tables(["--check", "--root", str(RESULTS.parents[1]), str(RESULTS.parents[1] / "docs" / "devices.md")]) == 0
    assert "up to date" in capsys.readouterr().out


def test_a_block_chooses_lengths_and_side_tables(tmp_path):
    request = TableRequest.parse("predicted/8xh200.json; table errors; tokens 4096; keep 1")
    rows = request.rows(json.loads((RESULTS / "predicted" / "8xh200.json").read_text()))
    assert {(row["tokens"], row["keep"]) for row in rows} == {(4096, 1.0)}
    with pytest.raises(ValueError, match="has no table 'wishes': it has rates, errors, stages"):
        TableRequest("x.json", table="wishes").rows(json.loads((RESULTS / "predicted" / "8xh200.json").read_text()))


@pytest.mark.slow
def test_published_results_make_a_report(tmp_path, capsys):
    directories = [str(RESULTS / name) for name in ("nvidia-h200", "seed-rtx5880", "predicted")]
    assert run_report([*directories, "--out", str(tmp_path)]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert "report.html" in names
    assert sum(name.startswith("several-devices") for name in names) == 2
    assert "not explained here" not in (tmp_path / "report.html").read_text()
    assert capsys.readouterr().out.count("written: ") == len(names)


def test_every_measurement_has_a_plot_beside_its_file(tmp_path):
    comm = write(tmp_path / "comm.json", "comm", comm_points(), backend="gloo", processes=2)
    assert write_profile_plot(json.loads(comm.read_text()), comm) == tmp_path / "comm.png"


def test_one_device_has_copies_instead_of_a_matrix():
    points = [
        {"test": name, "size_bytes": size, "status": "ok", "median_time_us": 1.0, "bandwidth_bytes_per_s": 1e9 * size}
        for name in ("copy", "host to device") for size in (4, 1024)
    ]  # fmt: skip
    figure = profile_devices_figures.comm_figure(Result(Path("comm.json"), {"kind": "comm", "machine": MACHINE, "points": points}))
    assert [text.get_text() for text in figure.axes[1].texts] == ["one device: there is no other to talk to"]
    assert len(figure.axes[0].lines) == 2


def test_tables_leave_out_what_is_nested():
    table = Table.of("t", [{"a": 1.0, "b": [1, 2], "c": None}, {"a": True, "d": 2.5e9}])
    assert list(table.columns) == ["a", "c", "d"]
    assert table.rows == [["1", "", ""], ["yes", "", "2.5000e+09"]]


@pytest.mark.parametrize(
    ("column", "meaning"),
    [
        ("p99_tpot_ms", "time per further token, 99th percentile"),
        ("median_time_us", "time of a message one way, or of an all-reduce, median"),
        ("p25_speedup", "its lower quartile"),
        ("nonsense", None),
    ],
)
def test_columns_are_explained(column, meaning):
    assert explain(column) == meaning
