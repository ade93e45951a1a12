"""A whole comparison with backends that cost nothing: what is played, written, resumed and summed up."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import typer

from agents.episode_log import read_records
from agents.loop import AgentConfig
from agents.records import EpisodeRecord, PlannerCall, TranscriptRecord
from benchmarks.backends.hidden_specs import with_secrets
from benchmarks.backends.registry import BackendFactory, choose_reference
from benchmarks.commands.results import print_results
from benchmarks.comparison import run as comparisons
from benchmarks.comparison.run import Comparison, run_comparison, sample_prompts
from benchmarks.comparison.schema import Summary
from benchmarks.comparison.summary import summarize
from benchmarks.reports.write import write_report
from benchmarks.runs import records
from benchmarks.runs.closed_loop import ClosedLoop, step_limits
from benchmarks.runs.executors import LocalExecutor
from benchmarks.runs.progress import ComparisonProgress
from benchmarks.runs.records import BackendRecords, RunRecords
from benchmarks.runs.suites import Case, Suite

SUITE = Suite("fake-suite", "for tests", ("fake",))
PRUNED = "erecap?keep=0.5"
FIGURES = {
    "episodes",
    "success_rate",
    "success_ci95",
    "spl",
    "replans_mean",
    "prompt_tokens",
    "kept_share",
    "ttft_s",
    "replan_s",
    "kv_bytes",
    "parse_errors",
}


def comparison(out, backends=("baseline", PRUNED), episodes=4, suite=SUITE, **options):
    return Comparison("compare", ClosedLoop(suite, tuple(backends), episodes, 0, AgentConfig()), out, **options)


@pytest.fixture
def run(fakes):
    def start(what, episode=fakes.fake_episode):
        results = run_comparison(what, fakes.fake_backend, ComparisonProgress(what.loop), episode)
        write_report(results)
        return results.summary

    return start


def test_replans_within_their_budget_are_counted(fakes, tmp_path):
    """Those that gave no plan are left out, as they are from the replan latency."""
    key = {"backend": "baseline", "env_id": "fake", "seed": 1_000_000}
    limit = {"budget_s": 0.3, "predicted_s": 0.2, "budget_met": True}
    changes = [
        ({}, limit),
        ({"replan_s": 0.2}, limit),
        ({}, limit | {"budget_met": False}),
        ({"parse_error": "bad", "replan_s": 0.1}, limit),
    ]
    made = fakes.fake_call(key, 0, 100)
    calls = [
        made.model_copy(update={"replan": number, "generation": replace(made.generation, **budget), **change})
        for number, (change, budget) in enumerate(changes)
    ]
    played = BackendRecords({Case("fake", 1_000_000): fakes.fake_end(key)}, calls)
    without = BackendRecords(played.episodes, [fakes.fake_call(key, 0, 100)])
    backends = summarize(comparison(tmp_path).loop, {"expert": without, "baseline": played}, [], complete=True).backends
    assert backends["expert"].budget is None
    assert backends["baseline"].budget is not None
    assert (backends["baseline"].budget.within, backends["baseline"].budget.predicted) == pytest.approx((1 / 3, 2 / 3))


def first_form(line):
    """A record as it was written before planner calls held their generation, and before there were budgets."""
    if line["kind"] != "planner_call":
        return {name: value for name, value in line.items() if name not in ("system", "digest")}
    made = line["generation"]
    rest = {name: value for name, value in line.items() if name != "generation"}
    copied = ("prompt_tokens", "new_tokens", "stage_tokens", "layer_tokens", "reused_tokens", "ttft_s", "decode_s", "first_skill_s")
    derived = {"kept_share": 0.75, "dropped_tokens": made["prompt_tokens"] // 2, "tpot_s": 0.05, "plan_text": made["text"]}
    sizes = {"kv_bytes": made["kv_bytes"], "peak_memory_bytes": 0, "parse_errors": 0}
    return {**rest, **{name: made[name] for name in copied}, **derived, **sizes}


def test_a_run_of_the_first_form_of_records_reads_as_one_of_todays(run, tmp_path):
    what, steps = comparison(tmp_path, replay_prompts=0), tmp_path / "steps.jsonl"
    run(what)
    lines = [json.loads(line) for line in steps.read_text().splitlines()]
    new = RunRecords.read(steps).select(what.loop.all_backends, what.loop.cases)
    steps.write_text("".join(json.dumps(first_form(line), separators=(",", ":")) + "\n" for line in lines))
    old = RunRecords.read(steps).select(what.loop.all_backends, what.loop.cases)
    assert [call for backend in new for call in new[backend].calls] == [
        call.model_copy(update={"generation": replace(call.generation, total_s=0.0)})
        for backend in old
        for call in old[backend].calls
    ]
    assert list(old) == list(new)
    assert all(call.generation.budget_s is None for backend in old for call in old[backend].calls)


def test_the_expert_plays_first_and_everything_is_written(run, tmp_path):
    summary = run(comparison(tmp_path))
    assert list(summary.backends) == ["expert", "baseline", PRUNED]
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "steps.jsonl",
        "replay.jsonl",
        "summary.json",
        "table.md",
        "replan_latency.png",
        "prompt_tokens.png",
        "latency_by_length.png",
        "replan_reasons.png",
    }
    assert Summary.model_validate_json((tmp_path / "summary.json").read_text()) == summary
    assert summary.complete


def test_summary_has_the_promised_keys(run, tmp_path):
    run(comparison(tmp_path))
    written = json.loads((tmp_path / "summary.json").read_text())
    assert set(written["backends"]["baseline"]) >= FIGURES
    assert set(written["backends"]["baseline"]["prompt_tokens"]) == {"p50", "p95", "max"}
    assert set(written["paired"]) == {"expert", PRUNED}
    assert {"ttft_speedup_p50", "replan_speedup_p50", "ceiling_p50", "of_ceiling_p50"} <= set(written["paired"][PRUNED])


def test_figures_of_the_closed_loop(run, tmp_path):
    summary = run(comparison(tmp_path))
    pruned = summary.backends[PRUNED]
    assert (pruned.episodes, pruned.success_rate, pruned.spl) == (4, 0.5, 0.5)
    assert (pruned.prompt_tokens.p50, pruned.prompt_tokens.max, pruned.dropped_tokens.p50) == (150, 200, 75)
    assert (pruned.subgoal_progress, pruned.kept_share, pruned.parse_errors) == (0.25, 0.75, 0)
    assert pruned.by_env["fake"].success_rate == 0.5


def test_figures_of_the_pairing(run, tmp_path):
    summary = run(comparison(tmp_path))
    pruned, expert = summary.paired[PRUNED], summary.paired["expert"]
    assert (summary.reference, pruned.episodes, pruned.success_diff) == ("baseline", 4, -0.5)
    assert pruned.success_diff_ci95[0] == -1.0
    assert pruned.prompts == 8
    assert pruned.ttft_speedup_p50 == pytest.approx(4 / 3, rel=0.01)
    assert pruned.of_ceiling_p50 == pytest.approx(pruned.ttft_speedup_p50 / pruned.ceiling_p50, rel=0.01)
    assert (expert.success_diff, expert.prompts, expert.ttft_speedup_p50, expert.ceiling_p50) == (0.0, 0, None, None)


def test_rows_of_other_prompts_do_not_count(run, tmp_path):
    many, few = (run(comparison(tmp_path, episodes=n)).paired for n in (3, 1))
    assert {name: (pair.prompts, few[name].prompts) for name, pair in many.items() if pair.prompts} != {}
    assert all(few[name].prompts < pair.prompts for name, pair in many.items() if pair.prompts)


def test_started_again_it_plays_nothing_and_says_the_same(run, fakes, tmp_path):
    first = run(comparison(tmp_path))
    written = {name: (tmp_path / name).read_bytes() for name in ("steps.jsonl", "replay.jsonl", "summary.json", "table.md")}

    def never(*_):
        raise AssertionError("played again")

    assert run(comparison(tmp_path), never) == first
    assert {name: (tmp_path / name).read_bytes() for name in written} == written


def test_a_run_goes_on_with_more_episodes_and_backends_but_counts_what_was_asked_for(run, tmp_path):
    run(comparison(tmp_path, episodes=6))
    assert run(comparison(tmp_path, [PRUNED, "baseline", "hf-generate"], episodes=3)).backends["hf-generate"].episodes == 3
    assert run(comparison(tmp_path, episodes=3)).backends["baseline"].episodes == 3


@pytest.mark.parametrize(
    ("other", "named"),
    [({"replay_tokens": 8}, "replay_tokens was 16, now 8"), ({"suite": replace(SUITE, name="other")}, "suite was 'fake-suite'")],
)
def test_another_run_in_the_same_directory_is_refused(run, tmp_path, other, named):
    run(comparison(tmp_path))
    with pytest.raises(ValueError, match=named):
        run(comparison(tmp_path, **other))


def test_ctrl_c_leaves_a_summary_of_what_is_there(run, fakes, tmp_path):
    def interrupted(job, *rest):
        if job.backend == PRUNED and job.seed % 10 == 2:
            raise KeyboardInterrupt
        return fakes.fake_episode(job, *rest)

    what = comparison(tmp_path)
    results = run_comparison(what, fakes.fake_backend, ComparisonProgress(what.loop), interrupted)
    summary = results.summary
    assert not summary.complete
    assert [summary.backends[b].episodes for b in summary.backends] == [4, 4, 2]
    assert results.missing == 2
    assert run(comparison(tmp_path)).complete


def test_ctrl_c_before_the_first_episode_is_over(run, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    summary = run(comparison(tmp_path), interrupted)
    assert (summary.backends, summary.paired, summary.complete) == ({}, {}, False)


def test_ctrl_c_before_a_new_backend_has_an_episode(run, tmp_path):
    """Its prompts are to be replayed, it has none, and there are rows of an earlier replay."""
    run(comparison(tmp_path))

    def interrupted(*_):
        raise KeyboardInterrupt

    more = comparison(tmp_path, ["baseline?dtype=float32", "erecap?keep=0.7", PRUNED])
    assert more.loop.reference == "baseline?dtype=float32"
    summary = run(more, interrupted)
    assert (list(summary.backends), summary.complete) == (["expert", PRUNED], False)


def test_ctrl_c_while_models_are_loaded(run, fakes, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(comparisons, "describe_models", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(comparison(tmp_path / "new"))
        assert not (tmp_path / "new").exists()
    run(comparison(tmp_path / "old"))
    with monkeypatch.context() as patch:
        patch.setattr(comparisons, "describe_models", interrupted)
        assert run(comparison(tmp_path / "old")).backends["baseline"].episodes == 4


def test_a_replay_without_prompts_is_left_out(run, fakes, tmp_path):
    """The reference's first prompt did not fit into its context."""

    def too_long(job, backend, config, sink, frames=None):
        if job.backend != "baseline":
            return fakes.fake_episode(job, backend, config, sink)
        end = fakes.fake_end({"backend": job.backend, "env_id": job.env_id, "seed": job.seed}, success=False)
        sink(end := end.model_copy(update={"end": "context_limit", "replans": 0, "skills": 0}))
        return end

    summary = run(comparison(tmp_path), too_long)
    assert summary.complete
    assert summary.paired[PRUNED].prompts == 0


def test_one_process_writes_a_run_from_its_first_file_to_its_last(run, fakes, tmp_path):
    """The lock covers the playing, the replay and the report, and a second start changes nothing."""
    what = comparison(tmp_path)
    run(what)
    (tmp_path / "replay.jsonl").unlink()
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused = []

    def make(spec):  # in the replay: all episodes are there
        with pytest.raises(ValueError, match=r"being written by another run \(process \d+ on .*wait for it"):
            run(what)
        refused.append(spec)
        return fakes.fake_backend(spec)

    def report(results):
        with pytest.raises(ValueError, match="being written by another run"):
            run(what)
        refused.append("report")

    results = run_comparison(what, make, ComparisonProgress(what.loop), fakes.fake_episode, report=report)
    assert refused[-3:] == ["baseline", PRUNED, "report"]
    assert len((tmp_path / "replay.jsonl").read_text().splitlines()) == len(results.rows) == 8
    kept = ("steps.jsonl", "config.json")
    assert [(tmp_path / name).read_bytes() for name in kept] == [written[name] for name in kept]


def test_rows_measured_on_other_backends_prompts_do_not_count(run, fakes, tmp_path):
    """The reference was baseline; without it, it is another backend, whose prompts are others at the same replan."""

    def own_words(job, backend, config, sink, frames=None):
        def told(record):
            is_plan = isinstance(record, TranscriptRecord) and record.entry == "plan"
            sink(record.model_copy(update={"text": f"explore {job.backend}"}) if is_plan else record)

        return fakes.fake_episode(job, backend, config, told)

    other = "erecap?keep=0.7"
    run(comparison(tmp_path, ["baseline", other, PRUNED]), own_words)
    what = comparison(tmp_path, [other, PRUNED])
    results = run_comparison(what, fakes.fake_backend, ComparisonProgress(what.loop), own_words)
    prompts = sample_prompts(what, RunRecords.read(tmp_path / "steps.jsonl"))
    assert {row.key for row in results.rows} == {prompt.key for prompt in prompts}
    first = [row for row in results.rows if row.replan == 0]
    assert all(set(row.measured) == {"baseline", other, PRUNED} for row in first), (
        "their prompts hold no plan yet: they are the same"
    )
    assert all(set(row.measured) == {other, PRUNED} for row in results.rows if row.replan == 1)


def test_rows_that_do_not_name_their_prompt_are_measured_again(run, tmp_path):
    run(comparison(tmp_path))
    path = tmp_path / "replay.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k not in ("prompt", "digest")}) + "\n" for row in rows))
    old = path.read_text()
    assert run(comparison(tmp_path)).paired[PRUNED].prompts == len(rows)
    assert path.read_text().startswith(old)
    assert len(path.read_text().splitlines()) == 2 * len(rows)


@pytest.mark.parametrize("when", ["playing", "replay"])
def test_a_deleted_directory_stops_the_run(fakes, tmp_path, when):
    what = comparison(tmp_path / "run")

    def delete(job, *rest):
        if when == "playing" and job.backend == "baseline":
            shutil.rmtree(tmp_path / "run")
        return fakes.fake_episode(job, *rest)

    def make(spec):
        if when == "replay":
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return fakes.fake_backend(spec)

    with pytest.raises(ValueError, match="was deleted, moved or replaced"):
        run_comparison(what, fakes.fake_backend, ComparisonProgress(what.loop), delete, make_here=make)
    assert not (tmp_path / "run").exists()


class Losing(LocalExecutor):
    """An executor whose workers die in the second episode of the expert."""

    @contextmanager
    def open(self):
        yield SimpleNamespace(
            remote=False,
            call=lambda function: function(),
            play=lambda jobs, play: (play(job) for job in jobs if (job.backend, job.seed) != ("expert", 1_000_001)),
        )


def test_lost_episodes_are_counted_and_named(fakes, tmp_path, capsys):
    what = comparison(tmp_path, executor=Losing(), replay_prompts=0)
    results = run_comparison(what, fakes.fake_backend, ComparisonProgress(what.loop), fakes.fake_episode)
    assert [str(job) for job in results.lost] == ["the episode of expert in fake, seed 1000001"]
    assert (results.missing, results.stopped, results.summary.complete) == (1, None, False)
    with pytest.raises(typer.Exit) as ended:
        print_results(results)
    assert ended.value.exit_code == 1
    assert "1 episodes were lost" in capsys.readouterr().out


def test_the_order_of_episodes_changes_nothing(fakes, tmp_path):
    seeds = range(1_000_000, 1_000_012)

    def played(backend, cost, order):
        keys = {seed: {"backend": backend, "env_id": "fake", "seed": seed} for seed in seeds}
        ends = {seed: fakes.fake_end(key, success=seed % 3 > 0, steps=20 + cost * (seed % 100)) for seed, key in keys.items()}
        calls = [fakes.fake_call(keys[seed], 0, 90 + seed % 7, replan_s=0.1 * (seed % 100)) for seed in order]
        return BackendRecords({Case("fake", seed): ends[seed] for seed in order}, calls)

    def summary(order):
        records = {backend: played(backend, cost, order) for backend, cost in (("expert", 0), ("baseline", 1), (PRUNED, 3))}
        return summarize(comparison(tmp_path, episodes=12).loop, records, [], complete=True)

    mixed = [1_000_000 + i for i in (5, 1, 0, 11, 2, 7, 3, 10, 4, 9, 8, 6)]
    assert summary(seeds) == summary(seeds[::-1]) == summary(mixed)
    assert summary(seeds).paired["expert"].spl_diff != 0


def test_figures_that_do_not_exist_are_null(run, fakes, tmp_path):
    """No plan could be read: there is no replan latency. The expert reads no prompt. A remote model has no layers and no cache."""

    def unread(job, backend, config, sink, frames=None):
        def told(record):
            if isinstance(record, PlannerCall):
                sizes = {"prompt_tokens": 0} if job.backend == "expert" else {}
                made = replace(record.generation, layer_tokens=(), stage_tokens=(), kv_bytes=0, **sizes)
                record = record.model_copy(update={"parse_error": "bad", "generation": made})
            sink(record)

        return fakes.fake_episode(job, backend, config, told)

    summary = run(comparison(tmp_path, ["baseline"]), unread)
    remote, expert = summary.backends["baseline"], summary.backends["expert"]
    for one in (remote, expert):
        assert (one.replan_s.p50, one.replan_s.p95, one.kept_share) == (None, None, None)
        assert (one.dropped_tokens.p50, one.dropped_tokens.max, one.kv_bytes.p50, one.kv_bytes.max) == (None,) * 4
    assert (expert.prompt_tokens.p50, expert.prompt_tokens.max) == (None, None)
    assert (remote.prompt_tokens.max, remote.ttft_s.p50) == (200, 0.2)
    rows = (tmp_path / "table.md").read_text()
    assert "| expert | 4 | 100% [51, 100] | 1.00 | 2.0 | - | - | - | 200 ms | - / - | - | - | - |" in rows
    assert "| 150 (max 200) | - | - | 200 ms | - / - | - | - | - |" in rows


def test_a_loop_made_in_python_hides_secrets_too():
    loop = ClosedLoop(SUITE, ("baseline", "openai?model=m&api_key=abcdefgh"), 1, 0, AgentConfig())
    assert "abcdefgh" not in repr(loop)
    assert with_secrets(loop.backends[1]) == "openai?model=m&api_key=abcdefgh"
    assert replace(loop, episodes=2).backends == loop.backends


def test_the_step_limit_follows_the_expert(run, fakes, tmp_path):
    limits = {}

    def noting(job, *rest):
        limits.setdefault(job.backend, set()).add(job.max_steps)
        return fakes.fake_episode(job, *rest)

    run(comparison(tmp_path, ["baseline"], suite=replace(SUITE, step_limit_factor=1.3)), noting)
    assert limits == {"expert": {None}, "baseline": {26}}


def test_step_limits_round_up(fakes):
    suite = replace(SUITE, step_limit_factor=1.3)
    expert = [fakes.fake_end({"backend": "expert", "env_id": "fake", "seed": 5}, steps=11)]
    assert step_limits(suite, expert) == {Case("fake", 5): 15}


def test_an_episode_that_the_expert_lost_is_not_asked_of_the_others(fakes):
    loop = ClosedLoop(replace(SUITE, step_limit_factor=1.3), ("baseline",), 3, 0, AgentConfig())
    first = loop.cases[0]
    assert [job.seed for job in loop.jobs("baseline", {first: 7})] == [first.seed]


def test_one_model_is_not_replayed(run, tmp_path):
    summary = run(comparison(tmp_path, ["baseline"]))
    assert not (tmp_path / "replay.jsonl").exists()
    assert summary.paired["expert"].prompts == 0


def test_replay_samples_the_reference_within_the_cap(run, tmp_path):
    what = comparison(tmp_path, replay_prompts=3)
    run(what)
    assert [p.prompt_tokens for p in sample_prompts(what, RunRecords.read(tmp_path / "steps.jsonl"))] == [100, 200, 200]


@pytest.mark.parametrize(
    ("backends", "reference"),
    [
        (["expert", PRUNED, "baseline?dtype=float32"], "baseline?dtype=float32"),
        (["openai?model=m", "hf-generate", PRUNED], "hf-generate"),
        (["expert", "openai?model=m"], "openai?model=m"),
        (["expert"], "expert"),
    ],
)
def test_reference(backends, reference):
    assert choose_reference(backends) == reference


@pytest.mark.parametrize("options", [{"replay_prompts": -1}, {"replay_tokens": 1}])
def test_numbers_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="must"):
        comparison(tmp_path, **options)


def test_records_carry_the_spec_string(run, tmp_path):
    run(comparison(tmp_path))
    ends = [r for r in read_records(tmp_path / "steps.jsonl") if isinstance(r, EpisodeRecord)]
    assert {r.backend for r in ends} == {"expert", "baseline", PRUNED}


def test_a_users_backend_with_a_model_takes_part_in_the_replay(fakes, tmp_path):
    """One without a model plays, and is left out of the replay; the first with a model is the reference."""
    plain, full, half = "own_planner:make", "own_planner:make_model", "own_planner:make_model?keep=0.5"
    what = comparison(tmp_path, [plain, full, half])
    results = run_comparison(what, BackendFactory(), ComparisonProgress(what.loop), fakes.fake_episode)
    assert (results.summary.reference, results.summary.complete) == (full, True)
    assert {tuple(row.measured) for row in results.rows} == {(full, half)}
    assert results.summary.paired[half].ttft_speedup_p50 == pytest.approx(4 / 3, rel=0.02)
    assert set(json.loads((tmp_path / "config.json").read_text())["models"]) == {full, half}


def test_the_records_are_parsed_once_after_the_episodes(run, monkeypatch, tmp_path):
    read, paths = records.read_records, []
    monkeypatch.setattr(records, "read_records", lambda path: (paths.append(path), read(path))[1])
    run(comparison(tmp_path))
    assert paths == [tmp_path / "steps.jsonl"]


def test_records_are_sorted_by_backend_and_case(run, tmp_path):
    run(comparison(tmp_path, ["baseline"], episodes=2))
    found = RunRecords.read(tmp_path / "steps.jsonl")
    cases = [Case("fake", 1_000_000), Case("fake", 1_000_001)]
    assert list(found.backends) == ["expert", "baseline"]
    assert list(found.backends["baseline"].episodes) == cases == list(found.backends["baseline"].transcripts)
    entries = found.backends["baseline"].transcripts[cases[0]]
    assert [entry.kind for entry in entries] == ["task", "observation", "plan", "observation", "plan"]
    assert "erecap" not in found.backends
    assert found.seeds == [case.seed for case in cases] * 2
    (chosen,) = found.select(["erecap", "baseline"], cases[1:]).values()
    assert (list(chosen.episodes), len(chosen.calls), len(chosen.prompts)) == (cases[1:], 2, 2)
    (turned,) = found.select(["baseline"], cases[::-1]).values()
    assert list(turned.episodes) == list(turned.transcripts) == cases[::-1], "intervals depend on the order: it is not the file's"
    assert [call.seed for call in turned.calls] == [1_000_001, 1_000_001, 1_000_000, 1_000_000]
