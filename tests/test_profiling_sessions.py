"""Replans of a recorded episode on random weights: the trace, its windows, and what is measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import prefill
from erecap.models.files import FileError
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.cli import main
from erecap.profiling.replan_trace import PromptPart, ReplanTrace, TracedReplan, bundled_trace, spans_of
from erecap.profiling.results import read_result
from erecap.profiling.session_profile import replans_at
from erecap.sessions import ReplanSession


def small_trace(replans: int = 4) -> ReplanTrace:
    """Each replan has 20 tokens more: an answer of 8 and an observation of 12, of which the last 4 are the next header."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 250, 40 + 20 * replans).tolist()
    ends, made = [10, 20, 36], []
    for number in range(replans):
        tokens = 40 + 20 * number
        answer = (*tuple(ids[tokens : tokens + 7]), 2)
        part = PromptPart(tokens, len(ends), ((0, 20), (tokens - 16, tokens)))
        before = PromptPart(ends[-2], len(ends) - 1, ((0, 20),)) if number else None
        made.append(TracedReplan(before, part, (*answer[:5], 2) if number else (), answer))
        ends += [tokens + 8, tokens + 16]
    last = made[-1].prompt
    return ReplanTrace("made up", tuple(ids[: last.tokens]), tuple(ends[: last.messages]), (), (2,), tuple(made))


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "trace.json"
    small_trace().save(path)
    return path


def test_a_trace_is_read_as_it_was_written(trace_file):
    assert ReplanTrace.load(trace_file) == small_trace()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"ids": []},
        {"ids": "text"},
        {"replans": []},
        {"replans": [{}]},
        {"replans": None},
        {"ends": [1]},
    ],
)
def test_other_files_are_no_traces(trace_file, change):
    trace_file.write_text(json.dumps(json.loads(trace_file.read_text()) | change))
    with pytest.raises(FileError, match="erecap trace-replans"):
        ReplanTrace.load(trace_file)


@given(st.lists(st.booleans(), max_size=40))
def test_spans_give_back_the_flags(flags):
    row = np.zeros(len(flags), np.bool_)
    for first, last in spans_of(np.array(flags, np.bool_)):
        row[first:last] = True
    assert row.tolist() == flags


@pytest.mark.parametrize(("length", "filled"), [(60, 0), (100, 0), (300, 200)])
def test_a_window_is_as_long_as_asked(length, filled):
    replans = replans_at(small_trace(), length, 2, 320)
    assert len(replans) == 2
    assert len(replans[-1].prompt) == length
    flags = replans[-1].prompt.protected
    assert not flags[20 : 20 + filled].any(), "filler is not protected"
    assert flags[:20].all()
    assert list(replans[-1].prompt.segment_ends) == sorted(replans[-1].prompt.segment_ends)
    longer, shorter = replans[1].prompt.input_ids, replans[0].prompt.input_ids
    assert np.array_equal(longer[: len(shorter)], shorter), "the history only grows"


def test_a_model_with_fewer_tokens_is_refused():
    with pytest.raises(ValueError, match="use a model of a larger vocabulary"):
        replans_at(small_trace(), 60, 2, 100)


def test_a_script_is_written_whatever_the_logits_say(make_model):
    model = make_model()
    prompt = TokenizedPrompt.from_ids(np.arange(3, 40))
    own = [row[0] for row in decode(model, prefill(model, prompt), DecodeOptions(6, ignore_eos=True))]
    script = tuple((token + 1) % 320 for token in own[:4])
    options = DecodeOptions(6, ignore_eos=True, script=script)
    made = [row[0] for row in decode(model, prefill(model, prompt), options)]
    assert tuple(made[:4]) == script
    session = ReplanSession(model)
    session.extend(prompt)
    assert list(session.plan(options)) == made
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt.input_ids.tolist(), *made]])).logits[0, -3:-1]
    assert logits.argmax(-1).tolist() == made[4:], "behind the script the model goes on from it"


def test_a_right_draft_is_accepted_whole_on_random_weights(make_model):
    trace = small_trace()
    first, second = replans_at(replace(trace, replans=trace.replans[:2]), 60, 2, 320)
    session, passes = ReplanSession(make_model()), []
    session.extend(first.prompt)
    assert tuple(session.plan(first.options)) == trace.replans[0].answer
    session.extend(second.prompt, second.drafter.propose((), 7))
    assert tuple(session.plan(second.options, second.drafter, passes.append)) == trace.replans[1].answer
    assert passes[0].accepted == 5, "the draft has the first five tokens of the answer, and then ends"


def test_sessions_are_measured_beside_the_engine(trace_file, tmp_path, capsys):
    words = ["sessions", "--trace", str(trace_file), "--lengths", "100,160", "--keep", "1,0.5", "--replans", "2", "--rounds", "1"]
    out = tmp_path / "sessions.json"
    assert main([*words, "--shape", "nano", "--device", "cpu", "--dtype", "float32", "--out", str(out)]) == 0
    points = read_result(out)["points"]
    names = ["baseline", "baseline-session?draft=none", "baseline-session"]
    pruned = ["erecap-session?keep=0.5&draft=none", "erecap-session?keep=0.5"]
    assert [(point["prompt_tokens"], point["backend"]) for point in points] == [
        (n, name) for n in (100, 160) for name in names + pruned
    ]
    by_name = {point["backend"]: point for point in points if point["prompt_tokens"] == 160}
    assert by_name["baseline"]["passes"] == by_name["baseline-session?draft=none"]["passes"] == 8
    assert by_name["baseline-session"]["passes"] < 8
    assert (
        by_name["erecap-session?keep=0.5"]["kv_bytes"] < by_name["baseline-session"]["kv_bytes"] == by_name["baseline"]["kv_bytes"]
    )
    assert by_name["baseline"]["speedup"] == by_name["baseline-session?draft=none"]["session_speedup"] == 1
    assert "x session" in capsys.readouterr().out


def test_the_trace_that_ships_is_a_growing_episode():
    trace = ReplanTrace.load(bundled_trace())
    lengths = [replan.prompt.tokens for replan in trace.replans]
    assert lengths == sorted(lengths)
    assert lengths[-1] > 4000
    assert any(replan.draft for replan in trace.replans)
