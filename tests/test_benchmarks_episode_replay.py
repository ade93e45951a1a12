"""Paired replay of whole episodes for backends that keep state: selection, order, warm-up, resuming, figures."""

import json
from itertools import pairwise

import pytest

from agents.loop import AgentConfig
from agents.recorded_prompts import RecordedPrompt
from benchmarks.backends.models import SESSIONS
from benchmarks.backends.registry import BackendFactory
from benchmarks.comparison.episode_replay import choose_episodes, replay_episodes
from benchmarks.comparison.metrics import slope
from benchmarks.comparison.replay import Measured, ReplayRow, read_rows
from benchmarks.comparison.run import Comparison, run_comparison, sample_prompts
from benchmarks.comparison.schema import Summary
from benchmarks.comparison.summary import summarize
from benchmarks.reports.table import summary_markdown
from benchmarks.reports.write import write_report
from benchmarks.runs.closed_loop import ClosedLoop
from benchmarks.runs.progress import ComparisonProgress
from benchmarks.runs.records import RunRecords
from benchmarks.runs.suites import Suite
from planner import Prompt, Segment, StatefulBackend

SPECS = ["baseline", "baseline-session"]
SUITE = Suite("fake-suite", "for tests", ("fake",))


def episode(seed, *lengths, answer_tokens=3):
    """The prompts of an episode; each goes on with the answer to the one before, and more words."""
    segments, made = [Segment("system", f"episode {seed}")], []
    for replan, words in enumerate(lengths):
        before = sum(len(segment.text.split()) for segment in segments)
        segments += [Segment("user", "word " * (words - before))]
        made.append(RecordedPrompt("fake", seed, replan, words, Prompt(tuple(segments)), "explore", answer_tokens))
        segments += [Segment("assistant", "explore")]
    return made


EPISODES = [*episode(7, 20, 30, 60), *episode(8, 10, 40)]


@pytest.fixture
def measure(fakes, tmp_path):
    """``measure(prompts, specs)`` -> (rows, [(spec, words, tokens to decode)] in the order asked, the backends)."""

    def run(prompts=EPISODES, specs=SPECS, make=fakes.fake_backend):
        order, made = [], {}

        def noting(spec):
            backend = made[spec] = make(spec)
            generate = backend.generate

            def note(given, sampling, on_line=None):
                order.append((spec, sum(len(s.text.split()) for s in given.segments), sampling.max_new_tokens))
                assert sampling.ignore_eos
                return generate(given, sampling, on_line)

            backend.generate = note
            return backend

        return replay_episodes(prompts, specs, noting, tmp_path / "replay.jsonl", 16), order, made

    return run


def test_backends_take_turns_prompt_by_prompt_in_the_order_of_the_episode(measure):
    """The fake fails on a prompt that it holds, out of order, or of another episode without a reset."""
    rows, order, made = measure()
    a, b = SPECS
    rehearsals = {7: [(b, n, 3) for n in (20, 30, 60)], 8: [(b, n, 3) for n in (10, 40)]}
    timed = {seed: [ask for _, n, _ in asks for ask in [(a, n, 1), (a, n, 3), (b, n, 3)]] for seed, asks in rehearsals.items()}
    assert order == [(a, 60, 3), *rehearsals[7], *timed[7], *rehearsals[8], *timed[8]]
    assert [(row.seed, row.replan) for row in rows] == [(p.seed, p.replan) for p in EPISODES]
    first, second = (["reset", *["ask"] * n, "reset", *["ask"] * n, "reset"] for n in (3, 2))
    assert made[b].events == first + second


def test_rows_tell_what_was_reused(measure, tmp_path):
    rows, _, _ = measure()
    kept = [row.measured["baseline-session"] for row in rows]
    assert [one.reused_tokens for one in kept] == [0, 21, 31, 0, 11]  # the prompt before and its answer
    assert [one.ttft_s for one in kept] == pytest.approx([0.02, 0.009, 0.029, 0.01, 0.029])
    assert {one.ceiling for one in kept} == {None}, "a ceiling counts a whole prefill"
    assert {(row.measured["baseline"].reused_tokens, row.measured["baseline"].ceiling) for row in rows} == {(0, 1.0)}
    assert read_rows(tmp_path / "replay.jsonl") == rows


def test_answers_of_unknown_length_get_the_given_one(measure):
    _, order, _ = measure(episode(7, 20, 30, answer_tokens=0))
    assert {tokens for _, _, tokens in order} == {1, 16}


def test_a_reset_that_forgets_nothing_is_refused(measure, fakes):
    """Its rehearsal would leave every prompt of the episode in its cache."""

    def make(spec):
        return fakes.FakeSession(forgetful=False) if spec == "baseline-session" else fakes.fake_backend(spec)

    with pytest.raises(ValueError, match=r"'baseline-session' reused 19 tokens of the first prompt.*reset\(\) must"):
        measure(make=make)


@pytest.mark.parametrize("observe", [True, False])
def test_what_is_taken_in_while_acting_is_in_no_latency(fakes, tmp_path, observe):
    """The history before an observation is shown before the prompt, in the rehearsal as well, and never the observation itself."""
    words = ["sys", "see one", "explore", "went on", "see two"]
    kinds = [("system", False), ("user", True), ("assistant", False), ("user", False), ("user", True)]
    segments = [Segment(role, text, observation=seen) for text, (role, seen) in zip(words, kinds, strict=True)]
    prompts = [RecordedPrompt("fake", 1, n, 1, Prompt(tuple(segments[:end])), "explore", 3) for n, end in enumerate([2, 5])]
    made = fakes.ObservingSession()
    rows = replay_episodes(prompts, ["s"], lambda spec: made, tmp_path / "replay.jsonl", 16, observe=observe)
    shown = ["observe"] if observe else []
    assert made.events == [*["reset", "ask", *shown, "ask"] * 2, "reset"]
    first, second = (row.measured["s"] for row in rows)
    assert (first.observe_s, second.observe_s > 0) == (0.0, observe)
    assert second.reused_tokens == (6 if observe else 4)


def test_a_second_replay_measures_nothing(measure):
    first, _, _ = measure()
    second, order, made = measure()
    assert (second, order, made) == (first, [], {})


@pytest.mark.parametrize("lines", [4, 4.5])
def test_an_episode_that_is_not_whole_is_measured_again_as_a_whole(measure, tmp_path, lines):
    measure()
    path = tmp_path / "replay.jsonl"
    written = path.read_bytes().splitlines(keepends=True)
    torn = written[int(lines)][:-30] if lines % 1 else b""
    path.write_bytes(b"".join(written[: int(lines)]) + torn)
    rows, order, _ = measure()
    assert [(row.seed, row.replan) for row in rows] == [(p.seed, p.replan) for p in EPISODES]
    assert {words for _, words, _ in order} == {10, 40}
    assert len(path.read_bytes().splitlines()) == 6


def test_a_kill_leaves_the_episodes_that_were_finished(measure, fakes, tmp_path):
    class Stopped(fakes.FakeSession):
        def generate(self, prompt, sampling, on_line=None):
            if self.events.count("ask") == 6 + 3:  # in the second episode, after its rehearsal and a timed prompt
                raise KeyboardInterrupt
            return super().generate(prompt, sampling, on_line)

    with pytest.raises(KeyboardInterrupt):
        measure(make=lambda spec: Stopped() if spec == "baseline-session" else fakes.fake_backend(spec))
    assert [(row.seed, row.replan) for row in read_rows(tmp_path / "replay.jsonl")] == [(7, 0), (7, 1), (7, 2)]


@pytest.mark.parametrize(
    ("limit", "seeds"), [(0, [3]), (3, [3]), (4, [3]), (5, [3, 1]), (9, [3, 4, 1]), (13, [3, 4, 2, 1]), (60, [3, 4, 2, 1])]
)
def test_whole_episodes_of_all_lengths_are_chosen(limit, seeds):
    prompts = [*episode(1, 10), *episode(2, 20, 30, 40, 50), *episode(3, 70, 80, 90, 95), *episode(4, 60, 75, 85, 88)]
    chosen = choose_episodes(prompts, limit)
    assert chosen == [prompt for seed in seeds for prompt in prompts if prompt.seed == seed]
    assert choose_episodes([], limit) == []


def test_old_rows_are_read(tmp_path):
    measured = dict.fromkeys(Measured.model_fields, 1)
    old = {name: value for name, value in measured.items() if name not in ("reused_tokens", "forward_passes", "observe_s")}
    path = tmp_path / "replay.jsonl"
    path.write_text(
        json.dumps({"env_id": "e", "seed": 1, "replan": 0, "measured": {"baseline": old}}, separators=(",", ":")) + "\n"
    )
    (row,) = read_rows(path)
    assert (row.measured["baseline"].reused_tokens, row.measured["baseline"].forward_passes) == (0, 0)


def test_growth_is_the_slope_of_a_straight_line():
    assert slope([(0, 3), (1, 5), (2, 7)]) == pytest.approx(2)
    assert slope([(0, 0), (1, 1), (2, 0)]) == pytest.approx(0)
    assert slope([(1, 1), (1, 2)]) is slope([]) is None


# ---- within a comparison -------------------------------------------------------------------------------------------------------


def comparison(out, backends=SPECS, **options):
    return Comparison("compare", ClosedLoop(SUITE, tuple(backends), 3, 0, AgentConfig()), out, **options)


@pytest.fixture
def run(fakes):
    def start(what):
        results = run_comparison(what, fakes.fake_backend, ComparisonProgress(what.loop), fakes.fake_episode)
        write_report(results)
        return results

    return start


def test_a_comparison_with_sessions_replays_whole_episodes(run, tmp_path):
    """Three episodes of two prompts were played, so five prompts are two episodes."""
    results = run(comparison(tmp_path, replay_prompts=5))
    assert [(row.seed, row.replan) for row in results.rows] == [(s, r) for s in (1_000_002, 1_000_000) for r in (0, 1)]
    summary = results.summary
    assert summary.replay["baseline"].reused_share_p50 is None
    assert 0 < summary.replay["baseline-session"].reused_share_p50 < 1
    assert summary.replay["baseline-session"].prompts == summary.paired["baseline-session"].prompts == 4
    assert summary.replay["baseline"].ttft_growth_s == pytest.approx(2.0)  # 2 layers, 1 ms a token and layer
    assert summary.paired["baseline-session"].of_ceiling_p50 is None
    assert SESSIONS in json.loads((tmp_path / "config.json").read_text())["models"]["baseline-session"]
    assert Summary.model_validate_json((tmp_path / "summary.json").read_bytes()) == summary
    table = (tmp_path / "table.md").read_text()
    assert "| paired replay | prompts | tokens reused |" in table
    assert "| +2e+03 ms per 1,000 tokens |" in table
    assert (tmp_path / "latency_by_length.png").stat().st_size > 10_000


def test_without_sessions_prompts_are_spread_over_lengths(run, tmp_path):
    what = comparison(tmp_path, ["baseline", "erecap?keep=0.5"], replay_prompts=5)
    results = run(what)
    assert len(results.rows) == 5
    lengths = [p.prompt_tokens for p in sample_prompts(what, RunRecords.read(tmp_path / "steps.jsonl"))]
    assert lengths == sorted(lengths)
    assert "paired replay |" not in (tmp_path / "table.md").read_text()
    assert SESSIONS not in (tmp_path / "config.json").read_text()


def test_a_backend_with_sessions_joins_a_run_without(run, tmp_path):
    run(comparison(tmp_path, ["baseline", "erecap?keep=0.5"]))
    results = run(comparison(tmp_path, ["baseline", "erecap?keep=0.5", "baseline-session"]))
    assert len(results.rows) == 6
    assert all(set(row.measured) == {"baseline", "erecap?keep=0.5", "baseline-session"} for row in results.rows)


def test_old_summaries_are_read(run, tmp_path):
    run(comparison(tmp_path, ["baseline", "erecap?keep=0.5"]))
    old = json.loads((tmp_path / "summary.json").read_text())
    del old["replay"]
    read = Summary.model_validate(old)
    assert read.replay == {}
    assert "paired replay |" not in summary_markdown(read)


def test_reused_shares_are_medians_over_prompts(tmp_path):
    def measured(reused):
        values = {"prompt_tokens": 100, "new_tokens": 3, "dropped_tokens": 0, "ttft_s": 0.1, "decode_s": 0.1, "total_s": 0.2}
        return Measured(**values, kv_bytes=1, ceiling=None, reused_tokens=reused)

    rows = [
        ReplayRow(env_id="e", seed=1, replan=n, measured={"a": measured(0), "b": measured(reused)})
        for n, reused in enumerate([0, 80, 90])
    ]
    replayed = summarize(comparison(tmp_path).loop, {}, rows, complete=True).replay
    assert (replayed["a"].reused_share_p50, replayed["b"].reused_share_p50) == (None, 0.8)
    assert replayed["a"].ttft_growth_s is None, "all prompts have one length"


# ---- the bundled planner -------------------------------------------------------------------------------------------------------


def test_sessions_of_the_bundled_planner_reuse_prompts_and_recorded_answers(tmp_path):
    """The recorded answers are those of ``baseline``, so ``baseline-session`` finds them in its cache."""
    specs = ("baseline?dtype=float32", "baseline-session?dtype=float32")
    what = Comparison("compare", ClosedLoop(Suite("one", "", ("BabyAI-GoToObj-v0",)), specs, 1, 0, AgentConfig()), tmp_path)
    results = run_comparison(what, BackendFactory(threads=1), ComparisonProgress(what.loop))
    assert isinstance(BackendFactory(threads=1)(specs[1]), StatefulBackend)
    full, kept = ([row.measured[spec] for row in results.rows] for spec in specs)
    assert len(kept) == results.summary.backends[specs[0]].replans_mean >= 2
    assert [one.reused_tokens for one in full] == [0] * len(full)
    assert kept[0].reused_tokens == 0
    assert [one.new_tokens for one in kept] == [one.new_tokens for one in full]
    for before, one in pairwise(kept):
        assert before.prompt_tokens + before.new_tokens - 1 <= one.reused_tokens < one.prompt_tokens
