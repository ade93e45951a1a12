"""Paired replay: order, warm-up, resuming, ceilings."""

import pytest

from agents.recorded_prompts import RecordedPrompt
from benchmarks.comparison.replay import read_rows, replay, spread_over_lengths
from planner import Prompt, Segment


def prompt(number, words):
    return RecordedPrompt("fake", number, 0, words, Prompt((Segment("user", "word " * words),)))


PROMPTS = [prompt(number, words) for number, words in enumerate([30, 10, 20])]
SPECS = ["baseline", "erecap?keep=0.5"]


@pytest.fixture
def measure(fakes, tmp_path):
    """``measure(prompts, specs)`` -> (rows, names in the order in which the backends were asked)."""

    def run(prompts=PROMPTS, specs=SPECS):
        order = []

        def make(spec):
            backend = fakes.fake_backend(spec)
            generate = backend.generate

            def noting(given, sampling, on_line=None):
                order.append((spec, len(given.segments[0].text.split()), sampling))
                return generate(given, sampling, on_line)

            backend.generate = noting
            return backend

        return replay(prompts, specs, make, tmp_path / "replay.jsonl", 16), order

    return run


def test_backends_take_turns_after_a_warm_up_on_the_longest_prompt(measure):
    _, order = measure()
    a, b = SPECS
    full = [(spec, words) for spec, words, sampling in order if sampling.max_new_tokens == 16]
    assert full == [(a, 30), (b, 30), (a, 30), (b, 30), (a, 10), (b, 10), (a, 20), (b, 20)]
    assert all(sampling.ignore_eos for _, _, sampling in order)


def test_what_is_timed_comes_right_after_one_token_of_the_same_prompt(measure):
    _, order = measure()
    asked = [(spec, words, sampling.max_new_tokens) for spec, words, sampling in order[2:]]
    assert [first for *first, _ in asked[::2]] == [timed for *timed, _ in asked[1::2]]
    assert {new for *_, new in asked[::2]} == {1}
    assert {new for *_, new in asked[1::2]} == {16}


def test_rows_hold_times_and_ceilings(measure):
    rows, _ = measure()
    baseline, pruned = (rows[0].measured[spec] for spec in SPECS)
    assert baseline.ceiling == 1.0
    assert (pruned.prompt_tokens, pruned.dropped_tokens, pruned.new_tokens) == (30, 15, 16)
    assert baseline.ttft_s / pruned.ttft_s == pytest.approx(60 / 45)
    assert 60 / 45 < pruned.ceiling < 1.5


def test_a_second_replay_measures_nothing(measure):
    first, _ = measure()
    second, order = measure()
    assert (second, order) == (first, [])


def test_a_torn_line_is_measured_again(measure, tmp_path):
    measure()
    path = tmp_path / "replay.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-30])
    assert len(read_rows(path)) == 2
    rows, order = measure()
    assert len(rows) == 3
    assert [words for _, words, _ in order[2:]] == [20] * 4
    assert path.read_text() == whole


def test_a_backend_more_measures_every_pair_anew(measure):
    measure()
    rows, order = measure(specs=[*SPECS, "hf-generate"])
    assert len(order) == 3 + 2 * 9
    assert all(set(row.measured) == {*SPECS, "hf-generate"} for row in rows)


def test_a_malformed_line_is_named(measure, tmp_path):
    path = tmp_path / "replay.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1"):
        measure()


def test_a_sample_is_spread_over_lengths():
    prompts = [prompt(number, words) for number, words in enumerate([5, 900, 40, 300, 7, 80])]
    assert [p.prompt_tokens for p in spread_over_lengths(prompts, 3)] == [5, 40, 900]
    assert [p.prompt_tokens for p in spread_over_lengths(prompts, 60)] == [5, 7, 40, 80, 300, 900]
