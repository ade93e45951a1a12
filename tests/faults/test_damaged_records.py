"""Damaged and foreign files in a run directory: never erased, never used in silence.

A command that starts in such a directory either says what is wrong and changes nothing, or ends as if nothing had happened, with
what a kill could have left in a ``.torn`` file.
"""

import random
import re
import shutil

import pytest

from agents.loop import AgentConfig
from benchmarks.comparison.run import REPORT_FILES, Comparison, run_comparison
from benchmarks.runs.closed_loop import ClosedLoop
from benchmarks.runs.progress import ComparisonProgress
from benchmarks.runs.suites import Suite

FILES = ("steps.jsonl", "replay.jsonl", "config.json", "summary.json")
RESULTS = ("steps.jsonl", "replay.jsonl", "summary.json")
FOREIGN = {
    "text": b"Shopping list: milk, eggs\n",
    "no line break": b"x",
    "json": b'{"name": "another tool", "version": 3}\n',
    "list": b"[1, 2, 3]\n",
    "binary": bytes(range(256)) * 4,
    "zeros": bytes(1000),
    "utf-16": "steps".encode("utf-16"),
}
WHAT = "the run that the tests damage"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def start(fakes, whole):
    """``start(out)`` runs the same comparison in ``out``."""

    def run(out):
        loop = ClosedLoop(Suite("fake-suite", WHAT, ("fake",)), ("baseline", "erecap?keep=0.5"), 2, 0, AgentConfig())
        what = Comparison("compare", loop, out)
        return run_comparison(what, fakes.fake_backend, ComparisonProgress(loop), fakes.fake_episode)

    if not whole.exists():
        run(whole)
    return run


@pytest.fixture
def damage(start, whole, tmp_path):
    """``damage(name, data)`` starts where that file holds other data, and checks what came of it. Return the message, if any."""

    def check(name, data):
        out = tmp_path / "run"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        (out / name).write_bytes(data)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        message = refusal(start, out)
        after = {path.name: path.read_bytes() for path in out.iterdir()}
        if message is not None:
            assert str(out / name) in message or "holds another run" in message
            assert after == before
        else:
            assert [after[each] for each in RESULTS] == [(whole / each).read_bytes() for each in RESULTS]
            assert data.endswith(after.get(f"{name}.torn", b""))
        return message

    return check


def refusal(start, out):
    try:
        start(out)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(damage, name, data):
    message = damage(name, data)
    assert message is not None
    assert "directory" in message


@pytest.mark.parametrize("name", [*FILES, *REPORT_FILES])
def test_a_foreign_file_in_a_new_directory_is_refused(start, tmp_path, name):
    (tmp_path / name).write_text("notes\n")
    with pytest.raises(ValueError, match=name):
        start(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "notes\n"}


@pytest.mark.parametrize("name", ["steps.jsonl", "replay.jsonl"])
def test_a_torn_tail_is_played_again(damage, whole, name):
    """Truncated at random places: the rest is what a kill could have left."""
    data, rng = (whole / name).read_bytes(), random.Random(name)
    for _ in range(15):
        assert damage(name, data[: rng.randrange(len(data))]) is None


@pytest.mark.parametrize("name", ["steps.jsonl", "replay.jsonl"])
def test_a_flipped_bit_is_noticed_and_the_advice_is_safe(damage, start, whole, tmp_path, name):
    data, rng = (whole / name).read_bytes(), random.Random(name)
    for _ in range(20):
        place = rng.randrange(len(data))
        changed = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        message = damage(name, changed)
        assert message is not None or same_values(data, changed), (place, data[place - 20 : place + 20])
        if message is not None:
            follow(message, out := tmp_path / "run", name)
            start(out)
            assert sorted((out / name).read_bytes().splitlines()) == sorted(data.splitlines())


def follow(message, out, name):
    """Do what the message says: remove the lines that it names."""
    found = re.search(r"all of its lines (\d+) to (\d+)", message) or re.search(r"line (\d+)(): ", message)
    assert found is not None
    first, last = int(found[1]), int(found[2] or found[1])
    lines = (out / name).read_bytes().split(b"\n")
    (out / name).write_bytes(b"\n".join(lines[: first - 1] + lines[last:]))


def same_values(data, changed):
    """Only white space differs, or the last line, which is then taken for torn."""
    return data.split() == changed.split() or data[: data.rindex(b"\n", 0, -1)] == changed[: data.rindex(b"\n", 0, -1)]


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_truncated_json_file_is_refused(damage, whole, name):
    data, rng = (whole / name).read_bytes(), random.Random(name)
    for length in (0, *(rng.randrange(len(data) - 2) for _ in range(8))):
        assert damage(name, data[:length]) is not None
