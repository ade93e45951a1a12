"""The clock of comparisons: where the seconds come from, and what a sweep over rates plays, writes and refuses."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.episode_log import EpisodeLog, read_records
from agents.job import EpisodeJob
from agents.loop import AgentConfig, run_episode
from agents.records import EpisodeRecord, PlannerCall
from benchmarks.commands.clock import make_clocks, parse_rates
from benchmarks.comparison.clock_sweep import ClockReport, folder
from benchmarks.reports.clock import clock_plot
from benchmarks.runs.clock_sources import MeasuredSeconds, PricedSeconds, make_clock, stretched
from erecap.calibration.bundled_costs import DEFAULT_COST, bundled_costs, find_cost
from erecap.calibration.cost_model import CostModel, Setting
from erecap.capacity.prices import SessionPrices, recorded
from erecap.models.identity import ModelIdentity
from planner import Generation

COST = CostModel(
    Setting(ModelIdentity("toy", "abc", 4, 64), "learned", "cpu (Some CPU)", "float32", 2, "2.9"),
    16, 5e-3, 8e-6, 1.5e-8, 6e-4, 2e-7, 5e-3, 5e-7,
)  # fmt: skip
FAKE, PRUNED = "own_planner:make_model", "own_planner:make_model?keep=0.25"


@pytest.fixture
def refused(invoke):
    """``refused(*arguments)`` runs a command that is a user's error, and returns its message."""

    def call(*arguments):
        done = invoke(*arguments)
        assert isinstance(done.exception, ValueError), done.output
        return str(done.exception)

    return call


# ---- sources -------------------------------------------------------------------------------------------------------------------


def test_the_answer_is_charged_for_the_tokens_that_it_has():
    seconds, layers = PricedSeconds(COST), (100, 100, 60, 60)
    short, long = (seconds(Generation("x", 100, new, layer_tokens=layers), 99.0) for new in (2, 40))
    assert short == pytest.approx(COST.prefill_s(layers) + COST.decode_s(layers, 2))
    assert long == pytest.approx(COST.prefill_s(layers) + COST.decode_s(layers, 40))
    assert long - short == pytest.approx(COST.decode_s(layers, 40) - COST.decode_s(layers, 2))
    assert seconds(Generation("x", 100, COST.answer_tokens, layer_tokens=layers), 0.0) == pytest.approx(COST.replan_s(layers))


def test_a_session_is_charged_for_what_is_new_and_for_its_passes():
    prices, held = SessionPrices(COST, 1, recorded), (100, 100, 60, 60)
    words = {"layer_tokens": held, "reused_tokens": 80}
    drafted = PricedSeconds(COST)(Generation("x", 100, 9, drafts=((6, 4), (3, 3)), **words), 99.0)
    assert drafted == pytest.approx(prices.extend_s(20, held, 6) + prices.pass_s(held, 5, 3))
    alone = PricedSeconds(COST)(Generation("x", 100, 3, **words), 99.0)
    assert alone == pytest.approx(prices.extend_s(20, held) + prices.pass_s(held, 1) + prices.pass_s(held, 2))
    assert alone < PricedSeconds(COST)(Generation("x", 100, 3, layer_tokens=held), 99.0)


def test_an_answer_without_layers_is_charged_as_unpruned():
    assert PricedSeconds(COST)(Generation("x", 100, 8), 99.0) == pytest.approx(COST.replan_s((100,) * 4, 8))


def test_a_prompt_that_nobody_counted_has_no_price():
    with pytest.raises(ValueError, match="use --clock-source measured"):
        PricedSeconds(COST)(Generation("x", new_tokens=3), 1.0)


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=12).map(lambda counts: sorted(counts, reverse=True)), st.integers(1, 60))
def test_layers_stand_for_equal_shares_of_another_depth(counts, layers):
    made = stretched(counts, layers)
    assert len(made) == layers
    assert made[0] == counts[0]
    assert list(made) == sorted(made, reverse=True)
    assert set(made) <= set(counts)
    if layers % len(counts) == 0:
        assert sum(made) / layers == sum(counts) / len(counts)


def test_measured_seconds_are_taken_as_they_are():
    clock = make_clock(2.0, "measured")
    assert clock.seconds == MeasuredSeconds()
    assert clock.seconds(Generation("x"), 0.7) == 0.7


def test_bundled_cost_models_say_whether_they_were_measured():
    assert {DEFAULT_COST, "qwen2-7b-h200", "qwen2-7b-h200-graph"} <= set(bundled_costs())
    said = {name: str(PricedSeconds(find_cost(name))) for name in bundled_costs()}
    assert "(measured; prices " in said[DEFAULT_COST]
    assert all("(PREDICTED, not measured; prices " in text for name, text in said.items() if name.startswith("qwen2-7b"))
    assert len({text.rpartition(" ")[2] for text in said.values()}) == len(said), "each has prices of its own"


def test_a_cost_model_of_ones_own(tmp_path):
    COST.save(tmp_path / "mine.json")
    assert make_clock(1.0, f"model:{tmp_path / 'mine.json'}").seconds == PricedSeconds(COST)


def test_an_episode_is_a_function_of_its_seed(fakes):
    """Two plays differ in measured times only."""

    def play():
        records = []
        run_episode(EpisodeJob("fake", "ERecap/HouseholdSmall-v0", 3), fakes.FakeModel(0.5), config, records.append)
        measured = {"backend_s", "overhead_s", "replan_s", "wall_s"}
        return [record.model_dump(exclude=measured) for record in records]

    config = AgentConfig(clock=make_clock(3.0, "model:qwen2-7b-h200"), max_replans=20)
    first = play()
    assert first == play()
    assert sum(record.get("clock_steps", 0) for record in first) == first[-1]["thinking_steps"] > 20


# ---- the command line ----------------------------------------------------------------------------------------------------------


def test_rates():
    assert parse_rates("0, 0.5,1,2e1") == (0.0, 0.5, 1.0, 20.0)
    assert make_clocks(None, None) == make_clocks("0", None) == {0.0: None}
    made = make_clocks("0,2", "measured")
    assert (made[0.0], made[2.0].steps_per_second) == (None, 2.0)
    assert [folder(Path("x"), rate).name for rate in (0.0, 0.5, 20.0)] == [
        "clock-0",
        "clock-0.5",
        "clock-20",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clock", "-1"], "must be finite and not negative, -1.0 is not: give environment steps per second"),
        (["--clock", "nan"], "must be finite and not negative"),
        (["--clock", "1,inf"], "must be finite and not negative"),
        (["--clock", "fast"], "must be numbers: give environment steps per second"),
        (["--clock", "1,,2"], "must be numbers"),
        (["--clock", ""], "must be numbers"),
        (["--clock", "1,2,1.0"], "gives a rate twice"),
        (["--clock", "1", "--clock-source", "guess"], "is not known: use measured, model for"),
        (["--clock", "1", "--clock-source", "model:"], "is not known"),
        (["--clock", "1", "--clock-source", "model:nowhere.json"], "is no file and none of the bundled ones (planner-cpu"),
        (["--clock-source", "measured"], "means nothing in a world that waits"),
        (["--clock", "0", "--clock-source", "model"], "means nothing in a world that waits"),
        (["--clock", "2", "--start-early"], "--start-early with --clock 2: a clock counts the seconds of whole plans"),
    ],
)
def test_bad_clocks_are_errors_with_their_remedy(refused, arguments, message, tmp_path):
    for command in (["compare", "--backends", "expert"], ["run"]):
        said = refused(*command, *arguments, "--out", tmp_path / "run")
        assert message in said
    assert not (tmp_path / "run").exists()


def test_run_takes_one_rate(refused, tmp_path):
    said = refused("run", "--clock", "1,2", "--out", tmp_path / "run")
    assert "run takes one" in said


def test_one_clock_is_a_setting_of_the_run(invoke, refused, fakes, tmp_path):
    arguments = ("run", "--backend", FAKE, "--episodes", "1", "--out", tmp_path / "run", "--clock", "2")
    done = invoke(*arguments, "--clock-source", "model:qwen2-7b-h200")
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["arguments"]["clock"] == 2.0
    assert "PREDICTED, not measured" in config["arguments"]["clock_source"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["backends"]
    assert summary["expert"]["clock"] == {"seconds": {"p50": 0.0, "p95": 0.0}, "steps_share": 0.0}
    assert 0 < summary[FAKE]["clock"]["steps_share"] < 1
    assert "steps spent thinking" in (tmp_path / "run" / "table.md").read_text()
    said = refused(*arguments, "--clock-source", "measured")
    assert "holds another run: clock_source was 'cost model of qwen2-7b" in said


def test_a_sweep_plays_each_rate_and_compares_them(invoke, refused, fakes, tmp_path):
    out = tmp_path / "sweep"
    arguments = ("compare", "--backends", f"{FAKE},{PRUNED}", "--episodes", "1", "--out", out, "--clock")
    done = invoke(*arguments, "0,4", "--clock-source", "model:qwen2-7b-h200")
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    report = ClockReport.model_validate_json((out / "clock.json").read_bytes())
    assert last["complete"]
    assert last["files"] == [str(out / name) for name in ("clock.json", "clock.md", "clock.png")]
    assert report.complete
    assert [(p.steps_per_second, p.backend) for p in report.points] == [
        (rate, name) for rate in (0.0, 4.0) for name in ("expert", FAKE, PRUNED)
    ]
    assert (out / "clock.png").read_bytes().startswith(b"\x89PNG")
    _check_points(report, out)
    table = (out / "clock.md").read_text()
    assert "| 0 (waits) | expert | 1 | 100% [21, 100] | 1.00 [1.00, 1.00] | - | 0.0% |" in table
    assert "| 4 | expert | 1 | 100% [21, 100] | 1.00 [1.00, 1.00] | 0 s | 0.0% |" in table
    assert "PREDICTED, not measured" in table
    assert "Steps of thinking count as steps" in table

    before = {path: path.read_bytes() for path in out.glob("clock-*/steps.jsonl")}
    again = invoke(*arguments, "4,0", "--clock-source", "model:qwen2-7b-h200")
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in out.glob("clock-*/steps.jsonl")} == before, "what is there is not played again"
    said = refused(*arguments, "0,4", "--clock-source", "model")
    assert "holds another run: clock_source was" in said


def _check_points(report, out):
    """Compare each point with the records."""
    for point in report.points:
        records = read_records(folder(out, point.steps_per_second) / "steps.jsonl")
        by_kind = defaultdict(list)
        for record in records:
            if record.backend == point.backend:
                by_kind[type(record)].append(record)
        ends, calls = by_kind[EpisodeRecord], by_kind[PlannerCall]
        assert point.success_rate == sum(end.success for end in ends) / len(ends)
        assert point.thinking_share == sum(call.clock_steps for call in calls) / sum(end.env_steps for end in ends)
        assert point.replans_mean == sum(end.replans for end in ends) / len(ends)
        assert (point.thinking_s_p50 is None) == (point.steps_per_second == 0)
        assert (point.thinking_share > 0) == (point.steps_per_second > 0 and point.backend != "expert")


def test_a_sweep_does_not_go_into_a_run(invoke, refused, tmp_path):
    assert invoke("compare", "--backends", "expert", "--episodes", "1", "--out", tmp_path / "run").exit_code == 0
    said = refused("compare", "--backends", "expert", "--episodes", "1", "--out", tmp_path / "run", "--clock", "1,2")
    assert "holds a run with one clock or none: choose another --out" in said


@pytest.mark.parametrize("complete", [True, False])
def test_a_plot_of_what_there_is(complete):
    point = {
        "backend": "a", "episodes": 3, "success_rate": 0.5, "success_ci95": (0.2, 0.8), "spl": None, "spl_ci95": None,
        "thinking_share": 0.1, "thinking_s_p50": 0.2, "replans_mean": 4.0,
    }  # fmt: skip
    report = ClockReport(
        suite="smoke",
        seed=0,
        source="test $x$ and $y$",
        complete=complete,
        points=[point | {"steps_per_second": rate} for rate in (0, 1)],
    )
    assert clock_plot(report).startswith(b"\x89PNG")


def test_a_sweep_that_is_stopped_keeps_what_is_there_and_goes_on(invoke, monkeypatch, tmp_path):
    command = (
        "compare",
        "--backends",
        "expert",
        "--episodes",
        "1",
        "--out",
        tmp_path,
        "--clock",
        "0,4",
        "--clock-source",
        "measured",
    )
    append = EpisodeLog.append

    def interrupted(log, lines):
        if log.path.parent.name == "clock-4":
            raise KeyboardInterrupt
        return append(log, lines)

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeLog, "append", interrupted)
        done = invoke(*command)
    assert done.exit_code == 130
    report = ClockReport.model_validate_json((tmp_path / "clock.json").read_bytes())
    assert (report.complete, [point.steps_per_second for point in report.points]) == (False, [0.0])
    assert "(incomplete)" in (tmp_path / "clock.md").read_text()
    assert json.loads(done.stdout.splitlines()[-1])["complete"] is False
    assert invoke(*command).exit_code == 0
    assert ClockReport.model_validate_json((tmp_path / "clock.json").read_bytes()).complete
