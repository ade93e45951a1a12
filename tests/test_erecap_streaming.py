"""Lines come out complete, once, and as soon as their break is decoded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.models.answers import LineStreamer, TimedAnswer


def stream(pieces: list[str]) -> list[tuple[int, str]]:
    """(step, line) for every line given; the step after the last is the close."""
    given_lines, now = [], 0
    streamer = LineStreamer(lambda ids: "".join(pieces[i] for i in ids), lambda line: given_lines.append((now, line)))
    for now in range(len(pieces)):  # read by the callback
        streamer.put(now)
    now = len(pieces)
    streamer.close()
    return given_lines


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["goto", " hall", "\n", "done"], [(2, "goto hall"), (4, "done")]),
        (["goto hall\nop", "en door\n"], [(0, "goto hall"), (1, "open door")]),
        (["a\nb\nc"], [(0, "a"), (0, "b"), (1, "c")]),
        (["\n", "\n", "done", "\n", "\n"], [(3, "done")]),
        ([], []),
    ],
)
def test_lines_come_when_complete(pieces, expected):
    assert stream(pieces) == expected


@given(st.lists(st.text(alphabet="ab\n ", max_size=4), max_size=12))
def test_lines_are_those_of_the_whole_text(pieces):
    assert [line for _, line in stream(pieces)] == [line for line in "".join(pieces).split("\n") if line.strip()]


@pytest.mark.parametrize(("end", "expected"), [(True, ["goto hall", "open"]), (False, ["goto hall"])])
def test_the_last_line_of_a_cut_answer_is_not_complete(end, expected):
    pieces, lines = ["goto hall", "\n", "open", ""], []
    answer = TimedAnswer(lambda ids: "".join(pieces[i] for i in ids), frozenset({3}), lines.append)
    for token in range(4 if end else 3):
        answer.put(token)
    assert answer.text() == "goto hall\nopen"
    assert lines == expected
    assert 0 < answer.first_skill_s <= answer.elapsed()
