"""The command line of the profiles: files that survive a stop, tables, and what it refuses."""

import json
from dataclasses import replace

import pytest
import torch

from erecap.profiling import cli, generate_profile, new_lengths, prefill_profile
from erecap.profiling.cli import main
from erecap.profiling.frontend import Frontend, Subcommand
from erecap.profiling.progress import LineProgress
from erecap.profiling.results import ResultFile, read_result
from erecap.profiling.trace_profile import summarise, summary_rows


def run(*words: str) -> int:
    return main([*words, "--shape", "nano", "--device", "cpu", "--dtype", "float32"])


def test_a_generate_profile_compares_decoders(tmp_path):
    out = tmp_path / "generate.json"
    words = ("--lengths", "64", "--keeps", "1,0.7", "--new-tokens", "6", "--decoders", "eager,graph-split,graph-flash")
    assert run("generate", *words, "--out", str(out)) == 0
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


def test_figures_that_do_not_exist_are_null(tmp_path):
    """A profiler that recorded no kernel; a number that is none."""
    found = summarise([], torch.device("cuda"))
    assert (found["device_ms"], set(found["parts_ms"].values()), set(found["parts_share"].values())) == (None, {None}, {None})
    file = ResultFile(tmp_path / "trace.json", kind="trace", machine={})
    file.add({"prompt_tokens": 8, "keep": 1.0, "status": "ok", "spread": float("nan"), "rates": [1.0, float("inf")], **found})
    point = json.loads((tmp_path / "trace.json").read_text())["points"][0]
    assert (point["device_ms"], point["spread"], point["rates"]) == (None, None, [1.0, None])
    assert {row["keep 1.0 share"] for row in summary_rows([point])} == {"-"}


def test_a_trace_puts_the_time_where_it_belongs(tmp_path, capsys):
    out = tmp_path / "trace.json"
    assert run("trace", "--lengths", "256,128", "--keep", "1,0.7", "--out", str(out)) == 0
    baseline, pruned = (point["parts_ms"] for point in read_result(out)["points"][:2])
    assert baseline["attention"] > 0
    assert baseline["linear"] > 0
    assert baseline["lm_head"] > 0
    assert baseline["scorer"] == baseline["gather"] == baseline["select"] == 0
    assert pruned["scorer"] > 0
    assert pruned["gather"] > 0
    assert pruned["select"] > 0
    assert baseline["other"] < 0.1 * sum(baseline.values())
    capsys.readouterr()
    assert main(["show", str(out)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown if "lm_head" in line] == ["256", "128"]


def test_rates_are_rows(tmp_path, capsys):
    assert run("rates", "--lengths", "64", "--out", str(tmp_path / "rates.json")) == 0
    assert read_result(tmp_path / "rates.json")["points"][0]["matmul_flops_per_s"] > 0
    shown = capsys.readouterr().out
    assert "matrix product  1024 x 1024 float32" in shown
    assert "refused: " in shown


def test_without_out_the_file_lies_below_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("rates", "--lengths", "16") == 0
    files = sorted((tmp_path / "runs" / "profile").iterdir())
    assert len(files) == 2
    assert all(file.name.startswith("rates-nano-") for file in files)
    written = [line for line in capsys.readouterr().out.splitlines() if line.startswith("written: runs/profile/rates-nano-")]
    assert len(written) == 2


def test_the_file_says_how_it_was_made(tmp_path):
    out = tmp_path / "rates.json"
    assert (
        main(["rates", "--lengths", "16", "--device", "cpu", "--shape", "nano", "--out", str(out)], Frontend(prog="my tool")) == 0
    )
    assert read_result(out)["command"] == "my tool rates --lengths 16 --device cpu --shape nano --out rates.json"
    assert read_result(out)["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prefill", "--lengths", "2000000"), "--lengths 2000000 exceeds the 1048576 positions of the nano (random weights): give"),
        (
            ("generate", "--lengths", "1048570"),
            "1048512 positions of the nano (random weights) without the 64 that are decoded",
        ),
        (("generate", "--decoders", "swift"), "decoders swift are not known"),
        (("prefill", "--device", "cuda:7"), "'cuda:7' is not there"),
        (("prefill", "--sdpa-backend", "cudnn"), "leave --sdpa-backend out, or use one of flash, math"),
        (("rates", "--out", "/proc/no/file.json"), "--out '/proc/no/file.json' cannot be written"),
    ],
)
def test_bad_input_is_an_error_with_its_remedy(words, message, capsys, tmp_path):
    out = () if "--out" in words else ("--out", str(tmp_path / "out.json"))
    device = () if "--device" in words else ("--device", "cpu")
    assert main([*words, *out, *device, "--shape", "nano", "--dtype", "float32"]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_there_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["prefill", "--model", str(tmp_path / "no"), "--device", "cpu", "--out", str(tmp_path / "out.json")]) == 1
    assert "no model could be read" in capsys.readouterr().err


def test_a_shape_beyond_the_memory_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("erecap.models.device.available_bytes", lambda: 1 << 30)
    assert main(["prefill", "--shape", "qwen2-72b", "--device", "cpu", "--out", str(tmp_path / "out.json")]) == 1
    assert "cpu has 1.0 GiB free: end other processes, or use a smaller model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("prefill", "--lengths", "2k"), "'2k' must be a whole number of at least 1"),
        (("prefill", "--lengths", "0"), "'0' must be a whole number of at least 1"),
        (("prefill", "--lengths", "-64"), "'-64' must be a whole number of at least 1"),
        (("prefill", "--keep", "1.2"), "'1.2' must be a keep ratio above 0 and at most 1"),
        (("prefill", "--keep", "0"), "'0' must be a keep ratio above 0"),
        (("prefill", "--seconds", "-1"), "'-1' must be a number above 0"),
        (("prefill", "--new-lengths", "-1"), "'-1' must be a whole number of at least 0"),
        (("memory", "--limit-gib", "0"), "'0' must be a number above 0"),
        (("prefill", "--shape", "gpt"), "invalid choice: 'gpt' (choose from 'qwen2-0.5b'"),
        (("swim",), "invalid choice: 'swim' (choose from 'prefill', 'generate'"),
        ((), "required: MEASUREMENT"),
    ],
)
def test_a_wrong_word_is_an_error_of_usage(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_other_files_are_refused(tmp_path, capsys):
    good = {"version": 1, "kind": "prefill", "machine": {"device_name": "cpu"}, "points": []}
    for text, message in (
        (json.dumps(good | {"version": 0}), "version 0, this erecap reads 1: measure again"),
        ("no", "not a JSON object"),
        ("[]", "not a JSON object"),
        (json.dumps({"version": 1}), "lacks kind, machine, points"),
        (json.dumps(good | {"kind": "taste"}), "measurement 'taste' is not known: this erecap shows prefill"),
    ):
        (tmp_path / "other.json").write_text(text)
        assert main(["show", str(tmp_path / "other.json")]) == 1
        assert message in capsys.readouterr().err
    assert main(["show", str(tmp_path / "none.json")]) == 1
    assert "cannot be read (No such file or directory)" in capsys.readouterr().err


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_stopped_profile_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    measure = prefill_profile._Run._points

    def stop_at_96(self, length, rounds):
        return interrupted() if length == 96 else measure(self, length, rounds)

    monkeypatch.setattr(prefill_profile._Run, "_points", stop_at_96)
    out = tmp_path / "prefill.json"
    assert run("prefill", "--lengths", "64,96", "--keep", "1", "--rounds", "1", "--new-lengths", "0", "--out", str(out)) == 130
    content = read_result(out)
    assert [point["prompt_tokens"] for point in content["points"]] == [64]
    assert not content["complete"]
    told = capsys.readouterr()
    assert f"stopped; what was measured is in {out}" in told.err
    assert "(stopped before its end)" in told.out


def test_a_stop_among_new_lengths_keeps_those_that_were_timed(tmp_path, monkeypatch):
    timed = iter([1.0, 0.5, 1.0])
    monkeypatch.setattr(new_lengths, "seconds_to_first_token", lambda *_: next(timed, None) or interrupted())
    out = tmp_path / "prefill.json"
    assert run("prefill", "--lengths", "100", "--keep", "1,0.7", "--rounds", "1", "--no-count", "--out", str(out)) == 130
    assert [point["new_lengths"] for point in read_result(out)["points"]] == [1, 1]


def test_a_stop_before_the_first_point_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "matrix_rate", interrupted)
    assert run("prefill", "--lengths", "64", "--out", str(tmp_path / "prefill.json")) == 130
    assert "stopped before anything was measured" in capsys.readouterr().err


def fails_beyond(limit: int, prefill):
    """``prefill`` on a device without the memory for more than ``limit`` tokens."""

    def short_of_memory(model, prompt, *rest):
        if len(prompt) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        return prefill(model, prompt, *rest)

    return short_of_memory


def test_out_of_memory_is_a_row(tmp_path, monkeypatch):
    few = ("--rounds", "1", "--keep", "1,0.7", "--lengths", "64,300")
    for module, words in (
        (prefill_profile, ("prefill", "--no-count", "--new-lengths", "0", "--no-stock")),
        (generate_profile, ("generate", "--new-tokens", "2")),
    ):
        monkeypatch.setattr(module, "prefill", fails_beyond(250, module.prefill))
        out = tmp_path / f"{words[0]}.json"
        assert run(*words, *few, "--out", str(out)) == 0
        statuses = [point["status"] for point in read_result(out)["points"]]
        assert statuses[:2] == ["ok", "ok"]
        assert all("out of memory" in status.lower() for status in statuses[2:])
        assert len(statuses) > 2


def test_files_are_written_whole(tmp_path):
    file = ResultFile(tmp_path / "deep" / "a.json", kind="prefill", machine={})
    file.add({"prompt_tokens": 1})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]
    assert read_result(tmp_path / "deep" / "a.json")["kind"] == "prefill"


def test_a_frontend_has_subcommands_plots_and_progress(tmp_path, capsys):
    heard = []

    class Progress(LineProgress):
        def expect(self, points):
            heard.append(points)

        def begin(self, work):
            heard.append(work)

        def add(self, point):
            heard.append(point["keep"])

        def close(self):
            heard.append("closed")

    frontend = Frontend(
        progress=Progress(),
        plot=lambda content, result: result.with_suffix(".png"),
        subcommands={"taste": Subcommand("Taste it.", lambda words: len(words))},
    )
    words = ["prefill", "--lengths", "64", "--keep", "1,0.7", "--rounds", "1", "--no-count", "--no-stock", "--new-lengths", "0"]
    out = tmp_path / "prefill.json"
    assert main([*words, "--shape", "nano", "--device", "cpu", "--dtype", "float32", "--out", str(out)], frontend) == 0
    assert heard[:4] == [2, "64 tokens, 1 rounds", 1.0, 0.7]
    assert heard[-1] == "closed"
    assert f"drawn: {out.with_suffix('.png')}" in capsys.readouterr().out
    assert main(["taste", "a", "b"], frontend) == 2
    with pytest.raises(SystemExit):
        main(["--help"], replace(frontend, prog="my tool"))
    told = capsys.readouterr().out
    assert "Taste it." in told
    assert told.startswith("usage: my tool")
