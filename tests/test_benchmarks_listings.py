"""What the command line lists, and that it prints the texts of others as they are."""

import io
import re
import subprocess
import sys

import pytest
from rich.console import Console
from structlog.testing import capture_logs

from benchmarks.backends.descriptions import INFO, OWN
from benchmarks.backends.registry import BackendFactory, backend_names, is_user_backend, parse_specs
from benchmarks.commands.listings import _table
from benchmarks.output.console import plain_console, result_console
from benchmarks.output.progress import BarProgress
from benchmarks.runs.progress import StageProgress
from benchmarks.runs.suites import SUITES
from erecap.engine.rules import RULES
from erecap.selectors import SELECTORS

STRANGE = ":smile: [bold]red[/bold] [link=x] [/] \\[a]"


def test_every_backend_is_described():
    assert list(INFO) == backend_names()
    assert all(info.summary and info.example for info in INFO.values())


@pytest.mark.parametrize("name", INFO)
def test_the_options_that_are_listed_are_those_that_it_takes(name):
    """The error for an unknown option lists the known ones."""
    with pytest.raises(ValueError, match=name) as caught:
        BackendFactory()(f"{name}?no_such_option=1")
    listed = re.split(r"takes |choose from ", str(caught.value))[-1]
    known = [] if "no parameters" in listed else re.findall(r"\w+", listed)
    assert sorted(INFO[name].options) == sorted(known)


def test_selectors_and_rules_are_all_named():
    options = INFO["erecap"].options
    assert all(name in options["selector"] for name in SELECTORS)
    assert all(name in options["rule"] for name in RULES)


@pytest.mark.parametrize("name", INFO)
def test_examples_are_specs(name):
    assert parse_specs(INFO[name].example) == [INFO[name].example]
    assert is_user_backend(OWN.example)


def test_erecap_backends_says_what_each_is_its_options_and_an_example(invoke):
    done = invoke("backends")
    assert done.exit_code == 0
    for name, info in INFO.items():
        line = next(line for line in done.output.splitlines() if line.split()[:1] == [name])
        assert info.summary in line
        assert info.example in line
        for option, meaning in info.options.items():
            assert re.search(rf"^ {option} +{re.escape(meaning)} +.*\b{name}\b", done.output, re.MULTILINE)
    assert OWN.example in done.output


def test_erecap_suites_says_how_to_play_one(invoke):
    done = invoke("suites")
    assert all(name in done.output for name in SUITES)
    assert "erecap run --suite smoke" in done.output


def test_listings_need_no_model():
    code = "import sys; from benchmarks.commands.listings import backends; backends(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_examples_are_whole_in_a_narrow_terminal():
    table, out = _table("example"), io.StringIO()
    table.add_row(INFO["openai"].example)
    Console(file=out, width=20).print(table)
    assert INFO["openai"].example in "".join(out.getvalue().split())


# ---- texts of others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [plain_console, result_console])
def test_consoles_print_texts_as_they_are(make, capsys):
    console = make()
    console.print(STRANGE)
    table = _table(STRANGE)
    table.title, table.caption = STRANGE, STRANGE
    table.add_row(STRANGE)
    console.print(table)
    assert capsys.readouterr().out.count(STRANGE) == 5


def test_progress_bars_print_texts_as_they_are():
    for draw in (_stages, _bar):
        console = plain_console()
        console.file, console.width, console._force_terminal = io.StringIO(), 240, True
        draw(console)
        assert STRANGE in console.file.getvalue()
        assert "😄" not in console.file.getvalue()


def _stages(console):
    with StageProgress(console) as progress:
        progress.begin(STRANGE, 2)
        progress.advance(1, STRANGE)


def test_work_in_progress_is_logged_at_once_and_then_every_ten_seconds():
    console, now = plain_console(), [0.0]
    console.file = io.StringIO()
    with StageProgress(console, lambda: now[0]) as progress, capture_logs() as logged:
        progress.begin("pruner", 8)
        for step in range(1, 8):
            now[0] += 4.0
            progress.beat(step, f"step {step}")
        progress.reach(8, "loss 1")
    assert [line["note"] for line in logged] == ["step 1", "step 4", "step 7", "loss 1"]


def _bar(console):
    bar = BarProgress(console)
    bar.expect(2)
    bar.begin(STRANGE)
    bar.add({"what": STRANGE})
    bar.close()


@pytest.mark.parametrize("arguments", [["--backend", "my.pack:smile:"], ["--executor", "[red]x :smile:"], ["--env", ":smile:x"]])
def test_errors_print_texts_as_they_are(arguments, monkeypatch, capsys):
    from benchmarks import cli

    monkeypatch.setattr(sys, "argv", ["erecap", "run", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert arguments[1] in capsys.readouterr().err
