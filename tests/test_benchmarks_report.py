"""Tables, plots and GIFs."""

import io

import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from agents.job import EpisodeJob
from agents.loop import AgentConfig
from benchmarks.backends.registry import BackendFactory
from benchmarks.comparison.replans import REASONS
from benchmarks.comparison.replay import Measured, ReplayRow
from benchmarks.comparison.schema import BackendSummary, PairedSummary, Summary
from benchmarks.reports.format import mebibytes, pipes, seconds
from benchmarks.reports.plots import per_bin, per_value, png, write_plots
from benchmarks.reports.reason_bars import write_reason_bars
from benchmarks.reports.replan_table import REASON_HEADERS, replan_markdown, replan_table
from benchmarks.reports.table import COLUMNS, environments_table, paired_differences, summary_markdown, summary_table
from benchmarks.runs.gif import record_gif

SPREAD = {"p50": 4000, "p95": 4200, "max": 5000}
TIMES = {"p50": 0.1234, "p95": 1.5}


def backend(envs=("a",), **figures):
    by_env = {env: {"episodes": 4, "success_rate": 0.5} for env in envs}
    values = {
        "episodes": 20,
        "success_rate": 0.9,
        "success_ci95": (0.7, 0.97),
        "subgoal_progress": 0.95,
        "spl": 0.85,
        "replans_mean": 12.25,
        "prompt_tokens": SPREAD,
        "kept_share": 0.4123,
        "parse_errors": 2,
        "by_env": by_env,
        "dropped_tokens": {"p50": 1200, "p95": 1300, "max": 1400},
        "kv_bytes": {"p50": 3 * 2**20, "max": 4 * 2**20},
        "ttft_s": TIMES,
        "replan_s": TIMES,
        "overhead_s": TIMES,
    }
    return BackendSummary.model_validate(values | figures)


PAIRED = PairedSummary(
    episodes=20,
    success_diff=-0.05,
    success_diff_ci95=(-0.15, 0.05),
    spl_diff=0.01,
    spl_diff_ci95=(-0.1, 0.1),
    prompts=60,
    ttft_speedup_p50=2.31,
    replan_speedup_p50=1.42,
    ceiling_p50=2.47,
    of_ceiling_p50=0.935,
)


def summary(**figures):
    backends = {"baseline": backend(**figures), "erecap?keep=0.7": backend(**figures)}
    return Summary(suite="s", seed=0, complete=True, reference="baseline", backends=backends, paired={"erecap?keep=0.7": PAIRED})


LENGTH = {"p50": 8, "p90": 12.5, "max": 20}
NO_LENGTH = {"p50": None, "p90": None, "max": None}
REPLANS = {
    "horizon": "task",
    "reasons": {"start": 0.1, "failure": 0.3, "surprise": 0.2, "goal_changed": 0.0, "plan_end": 0.4},
    "forced": 0.556,
    "plan_lines": LENGTH,
    "plan_tokens": NO_LENGTH,
    "reuse": None,
    "recovery": {"replans": 7, "recovered": 0.857, "replans_p50": 2, "env_steps_p50": 31},
    "decode_share": None,
    "last_prompt_p50": None,
    "last_prompt_long": None,
    "repeated": 0.05,
    "forbidden": 0,
}


def text(renderable):
    console = Console(file=io.StringIO(), width=220)
    console.print(renderable)
    return console.file.getvalue()


def test_the_wait_before_the_first_skill_has_a_column_only_where_plans_are_begun_early():
    early = {"wait_s": {"p50": 0.0421, "p95": 0.25}, "rest_s": TIMES, "early_share": 0.9, "taken_back": 0}
    assert "wait before first skill" not in summary_markdown(summary())
    shown = summary_markdown(summary(early=early))
    assert "wait before first skill p50 / p95" in shown
    assert "42.1 ms / 250 ms" in shown


def test_the_table_has_the_promised_columns():
    headers = " ".join(column.header for column in COLUMNS)
    for word in [
        "backend",
        "success",
        "SPL",
        "replans",
        "prompt tokens",
        "kept share",
        "final share",
        "TTFT",
        "p50 / p95",
        "KV",
        "paired",
    ]:
        assert word in headers
    row = next(line for line in text(summary_table(summary())).splitlines() if "erecap?keep=0.7" in line)
    cells = [
        "90% [70, 97]",
        "0.85",
        "4000 (max 5000)",
        "41%",
        "123 ms / 1.50 s",
        "3.0 MiB",
        "2.31x / 1.42x",
        "94% of 2.47x",
    ]
    assert all(cell in row for cell in cells)


def test_markdown_has_the_same_cells_and_the_differences():
    written = summary_markdown(summary())
    assert "| 94% of 2.47x |" in written
    assert "- erecap?keep=0.7 - baseline: success -5.0 [-15.0, +5.0], SPL +1.0 [-10.0, +10.0] points over 20 episodes" in written


def test_figures_that_do_not_exist_are_a_dash():
    nothing = {"p50": 0, "p95": 0, "max": 0}
    lone = summary(prompt_tokens=nothing, kv_bytes={"p50": 0, "max": 0}, ttft_s={"p50": 0, "p95": 0})
    cells = next(line for line in summary_markdown(lone).splitlines() if line.startswith("| baseline")).split(" | ")
    assert cells[5:9] == ["-", "-", "-", "-"]
    assert cells[-1] == "- |"


def test_budgets_have_a_column_only_where_there_are_any():
    assert "budget" not in summary_markdown(summary())
    plain, limited = backend(), backend(budget={"predicted": 1.0, "within": 0.75})
    mixed = Summary(suite="s", seed=0, complete=True, reference="a", backends={"a": plain, "b": limited}, paired={})
    assert "within budget (predicted)" in text(summary_table(mixed))
    cells = [line.split(" | ")[-1] for line in summary_markdown(mixed).splitlines() if line.startswith(("| a", "| b"))]
    assert cells[-2:] == ["- |", "75% (100%) |"]


def test_the_table_about_replanning_shows_the_reasons_that_occurred():
    shown = [" ".join(line.split()) for line in text(replan_table(summary(replans=REPLANS))).splitlines()]
    assert "replanning start failure surprise end forced plan lines plan tokens reused recovered repeated decode" in shown
    assert "baseline 10% 30% 20% 40% 56% 8 / 12 - - 86% 5% -" in shown
    cells = "| baseline | 10% | 30% | 20% | 40% | 56% | 8 / 12 | - | - | 86% | 5% | - |"
    assert cells in summary_markdown(summary(replans=REPLANS))


def test_backends_without_figures_about_replanning_have_no_row_and_no_bar(tmp_path):
    """Theirs are old records, which do not hold the plans."""
    mixed = summary()
    mixed = mixed.model_copy(update={"backends": mixed.backends | {"new": backend(replans=REPLANS)}})
    assert [line.split(" | ")[0] for line in replan_markdown(mixed).splitlines()[2:3]] == ["| new"]
    assert replan_table(summary()) is None
    assert replan_markdown(summary()) == ""
    assert write_reason_bars(summary(), tmp_path) == []


def test_every_reason_has_a_header_and_the_bars_are_drawn(tmp_path):
    assert tuple(REASON_HEADERS) == REASONS
    every = REPLANS | {"reasons": dict.fromkeys(REASONS, 1 / len(REASONS))}
    for number, replans in enumerate((REPLANS, every)):
        folder = tmp_path / str(number)
        assert write_reason_bars(summary(replans=replans), folder) == [folder / "replan_reasons.png"]
        with Image.open(folder / "replan_reasons.png") as picture:
            assert picture.width > 800


def test_success_by_environment_is_shown_for_several():
    assert environments_table(summary()) is None
    assert "50% of 4" in text(environments_table(summary(envs=("a", "b"))))


def test_an_empty_summary_is_a_table_too():
    empty = Summary(suite="s", seed=0, complete=False, reference="baseline", backends={}, paired={})
    assert "(incomplete)" in text(summary_table(empty))
    assert paired_differences(empty) == []


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0, "-"), (0.00082, "0.82 ms"), (0.1234, "123 ms"), (2.5, "2.50 s")])
def test_times_for_people(value, shown):
    assert seconds(value) == shown


def test_sizes_for_people():
    assert (mebibytes(None), mebibytes(0), mebibytes(1.5 * 2**20)) == ("-", "-", "1.5 MiB")


def test_plots_are_written_for_what_there_is(fakes, tmp_path):
    key = {"backend": "baseline", "env_id": "fake", "seed": 0}
    calls = [fakes.fake_call(key, replan, 100 * replan) for replan in range(5)]
    times = {"ttft_s": 0.1, "decode_s": 0.0, "total_s": 1.0}
    measured = Measured(prompt_tokens=9, new_tokens=2, dropped_tokens=0, kv_bytes=0, ceiling=None, **times)
    row = ReplayRow(env_id="fake", seed=0, replan=0, measured={"baseline": measured})
    assert write_plots({}, [], tmp_path) == []
    written = write_plots({"baseline": calls}, [row], tmp_path)
    assert [path.name for path in written] == ["replan_latency.png", "prompt_tokens.png", "latency_by_length.png"]
    with Image.open(written[0]) as picture:
        assert picture.width > 900


def test_replan_numbers_that_few_episodes_reach_are_left_out():
    points = [(number, 1.0) for number in [1, 1, 1, 2, 2, 2, 3]]
    assert [x for x, _ in per_value(points)] == [1, 2]
    assert [x for x, _ in per_value(points[-1:])] == [3]


def test_bins_hold_equally_many_points():
    bins = per_bin([(float(x), 0.0) for x in range(100)])
    assert len(bins) == 12
    assert {len(ys) for _, ys in bins} <= {8, 9}


def test_a_gif_must_be_called_one(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.gif"):
        record_gif(EpisodeJob("expert", "fake", 0), BackendFactory()("expert"), AgentConfig(), tmp_path / "out.png")


@pytest.mark.parametrize("name", [r"my$\nothing$.made:up", "erecap?pruner=/a/$b$/c", "$"])
def test_a_name_with_dollar_signs_is_drawn_as_it_is(name):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 1000], [1, 2], label=name)
    axes.set_title(name)
    axes.set_xscale("log")
    legend = axes.legend()
    assert png(figure).startswith(b"\x89PNG")
    assert not axes.title.get_parse_math()
    assert [text.get_text() for text in legend.get_texts()] == [name]
    assert all(label.get_parse_math() for label in axes.get_xticklabels())


def test_a_bar_in_a_name_does_not_split_its_cell():
    assert pipes(["backend", "n"], [["a|b", "1"]]).splitlines()[-1] == r"| a\|b | 1 |"
