"""``erecap profile`` and ``erecap doctor``: one parser, plots, the check of the planner, and tables in documents."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.commands import profile_frontend
from benchmarks.output.progress import BarProgress, make_progress
from benchmarks.reports.profile_plots import PLOTS, write_profile_plot
from benchmarks.reports.profile_tables import TableRequest, fill_tables
from erecap.models.loading import ModelNotFoundError
from erecap.profiling.cli import COMMANDS
from erecap.profiling.progress import LineProgress
from erecap.profiling.results import read_result

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NANO = ("--shape", "nano", "--device", "cpu", "--dtype", "float32")


def test_help_lists_the_measurements(invoke):
    for words in (("profile", "--help"), ("profile",)):
        told = invoke(*words).output
        assert told.startswith("usage: erecap profile")
        assert all(f"    {name} " in told for name in (*COMMANDS, "env", "show", "tables"))
    assert "--new-lengths" in invoke("profile", "prefill", "--help").output
    assert "--check" in invoke("profile", "tables", "--help").output


def test_a_profile_is_measured_and_drawn(invoke, tmp_path):
    out = tmp_path / "prefill.json"
    words = ("--lengths", "64,96", "--keep", "1,.7", "--rounds", "1", "--new-lengths", "1", "--no-count")
    done = invoke("profile", "prefill", *NANO, *words, "--out", out)
    assert done.exit_code == 0, done.output
    assert read_result(out)["command"].startswith("erecap profile prefill --shape nano")
    assert (tmp_path / "prefill.png").read_bytes().startswith(b"\x89PNG")
    assert f"drawn: {tmp_path / 'prefill.png'}" in done.output


def test_errors_have_the_exit_code_of_the_measurements(invoke):
    done = invoke("profile", "prefill", "--device", "cuda:9")
    assert (done.exit_code, "is not there" in done.output) == (1, True)
    assert invoke("profile", "swim").exit_code == 2


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*.json")), ids=lambda path: path.stem)
def test_every_published_result_can_be_drawn(path, tmp_path):
    content = read_result(path)
    drawn = write_profile_plot(content, tmp_path / path.name)
    assert (drawn is not None) == (content["kind"] in PLOTS)


def test_nothing_measured_is_not_drawn(tmp_path):
    content = {"kind": "prefill", "points": [{"prompt_tokens": 1, "keep": 1.0, "status": "left out"}]}
    assert write_profile_plot(content, tmp_path / "prefill.json") is None


def test_the_doctor_lets_the_planner_plan(invoke, tmp_path):
    done = invoke("doctor", "--json", "--device", "cpu", "--out", tmp_path / "env.json")
    told = json.loads(done.output)
    planner = next(check for check in told["points"] if check["name"] == "bundled planner")
    assert planner["status"] == "ok"
    assert "3 plans in ERecap/HouseholdSmall-v0" in planner["found"]
    assert read_result(tmp_path / "env.json")["points"] == told["points"]
    assert done.exit_code == int(any(check["status"] == "error" for check in told["points"]))


def test_a_planner_that_does_not_load_is_an_error(monkeypatch):
    def missing():
        raise ModelNotFoundError("no bundled planner")

    monkeypatch.setattr(profile_frontend, "_one_plan", missing)
    (found,) = profile_frontend.check_planner()
    assert (found.status, found.found) == ("error", "it does not load: no bundled planner")


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(capsys):
    screen = StringIO()
    bar = make_progress(Console(file=screen, force_terminal=True, width=100))
    assert isinstance(bar, BarProgress)
    bar.expect(2)
    bar.begin("64 tokens")
    bar.add({"prompt_tokens": 64, "keep": 0.7, "status": "ok"})
    bar.close()
    assert "prompt_tokens 64, keep 0.7, status ok" in screen.getvalue()
    lines = make_progress(Console(file=StringIO()))
    assert isinstance(lines, LineProgress)
    lines.expect(3)
    lines.add({"size": 5, "rate": 1.25})
    assert capsys.readouterr().err == "[1/3] size 5, rate 1.25\n"


@pytest.mark.parametrize("name", ["README.md", "docs/profiling.md"])
def test_the_tables_of_documents_are_those_of_the_result_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- profile-table: benchmarks/results/" in text
    assert fill_tables(text, ROOT, (ROOT / name).parent) == text, "run `erecap profile tables`"


def test_a_table_shows_what_its_block_asks_for(invoke, tmp_path):
    begin = "<!-- profile-table: nvidia-h200/prefill.json; keep 0.7; columns tokens, speedup, ceiling -->"
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{begin}\nold\n<!-- profile-table: end -->\nafter\n")
    assert invoke("profile", "tables", document, "--root", RESULTS, "--check").exit_code == 1
    assert "old" in document.read_text()
    assert invoke("profile", "tables", document, "--root", RESULTS).exit_code == 0
    lines = document.read_text().splitlines()
    assert "| tokens | speedup | ceiling |" in lines
    points = read_result(RESULTS / "nvidia-h200" / "prefill.json")["points"]
    measured = [point for point in points if point["keep"] == 0.7 and point["status"] == "ok"]
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:] == [
        str(p["prompt_tokens"]) for p in measured
    ]
    assert (lines[0], lines[-1]) == ("before", "after")
    assert invoke("profile", "tables", document, "--root", RESULTS, "--check").exit_code == 0


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("none.json", "cannot be read"),
        ("nvidia-h200/prefill.json; columns speed", "has no column speed: it has tokens, keep"),
        ("nvidia-h200/prefill.json; rows 3", "'rows 3' in a profile-table block is not known"),
    ],
)
def test_wrong_blocks_are_errors(terms, message):
    with pytest.raises(ValueError, match=message):
        fill_tables(f"<!-- profile-table: {terms} -->\n<!-- profile-table: end -->\n", RESULTS, ROOT)


def test_a_block_without_an_end_is_an_error():
    with pytest.raises(ValueError, match="1 profile-table blocks begin and 0 end"):
        fill_tables("<!-- profile-table: nvidia-h200/prefill.json -->\n", RESULTS, ROOT)


def test_requests_are_read():
    assert TableRequest.parse("a.json; keep 1, 0.7; columns tokens, of met") == TableRequest(
        "a.json", (1.0, 0.7), ("tokens", "of met")
    )
