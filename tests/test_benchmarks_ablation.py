"""The grid of suites and backends: which cells, what the table says of them, and the plots."""

import pytest

from agents.loop import AgentConfig
from benchmarks.comparison.grid import PUBLISHED, choose_rows, comparisons
from benchmarks.comparison.run import Comparison, run_comparison
from benchmarks.reports.ablation import ablation_markdown, write_ablation
from benchmarks.reports.frontier import frontier_lines, line_of, line_styles
from benchmarks.runs.closed_loop import ClosedLoop
from benchmarks.runs.executors import LocalExecutor
from benchmarks.runs.progress import ComparisonProgress
from benchmarks.runs.suites import SUITES, Suite
from planner import BackendSpec

BACKENDS = ("baseline", "erecap?keep=0.5&selector=random", "erecap?keep=0.3&selector=random", "erecap?keep=0.5")


@pytest.fixture
def summary(fakes, tmp_path):
    loop = ClosedLoop(Suite("fake-suite", "for tests", ("fake",)), BACKENDS, 4, 0, AgentConfig())
    comparison = Comparison("ablate", loop, tmp_path / "fake-suite", replay_prompts=2)
    return run_comparison(comparison, fakes.fake_backend, ComparisonProgress(loop), fakes.fake_episode).summary


def test_the_published_grid_is_the_default_and_every_cell_can_be_made():
    rows = choose_rows([], [], None)
    assert rows == list(PUBLISHED)
    for row in rows:
        assert row.suite in SUITES
        assert len(set(row.backends)) == len(row.backends)
        for spec in row.backends:
            BackendSpec.parse(spec)


def test_what_is_asked_for_replaces_the_grid_s():
    assert [row.suite for row in choose_rows(["babyai"], [], None)] == ["babyai"]
    assert choose_rows(["babyai"], [], 0)[0].episodes == 0, "and not the grid's number: what plays them refuses it"
    (row,) = choose_rows(["household-small"], ["erecap?keep=0.5"], 7)
    assert (row.episodes, row.backends) == (7, ("erecap?keep=0.5",))
    with pytest.raises(ValueError, match="suite 'kitchen' is unknown"):
        choose_rows(["kitchen"], [], None)


def test_each_suite_is_a_comparison_with_the_unpruned_planner_first(tmp_path):
    rows = choose_rows(["babyai", "smoke"], ["baseline", "erecap?keep=0.5", "expert"], 3)
    made = comparisons(rows, tmp_path, seed=2, executor=LocalExecutor(4), replay_prompts=5)
    assert [c.out for c in made] == [tmp_path / "babyai", tmp_path / "smoke"]
    assert {c.loop.backends for c in made} == {("baseline", "erecap?keep=0.5")}
    assert {(c.loop.episodes, c.loop.seed, c.executor, c.replay_prompts) for c in made} == {(3, 2, LocalExecutor(4), 5)}


@pytest.mark.parametrize(
    ("horizon", "reaches"), [(None, ["subgoal", "task"]), ("task", ["task", "task"]), ("subgoal", ["subgoal"] * 2)]
)
def test_a_suite_s_own_horizon_is_the_default(tmp_path, horizon, reaches):
    rows = choose_rows(["household-long", "household-replan"], ["baseline"], 3)
    made = comparisons(rows, tmp_path, seed=0, executor=LocalExecutor(1), replay_prompts=0, horizon=horizon)
    assert [c.arguments()["horizon"] for c in made] == reaches


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ("erecap?keep=0.7", "learned"),
        ("erecap?selector=random&keep=0.5&seed=3", "random seed=3"),
        ("baseline?last=8", "last=K"),
        ("baseline", "baseline"),
    ],
)
def test_cells_that_differ_by_budget_share_a_line(spec, way):
    assert line_of(spec) == way


def test_a_line_rises_in_what_is_kept(summary):
    found = frontier_lines(summary, lambda name, cell: cell.kept_share)
    assert list(found) == ["baseline", "random", "learned"]
    assert [len(points) for points in found.values()] == [1, 2, 1]
    for points in found.values():
        assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_every_line_looks_different_and_those_of_one_selector_share_a_colour():
    ways = ["baseline", *("abcdefg"), "last=K", "mask=K", "a stages=0-5", "b stages=0-5"]
    styles = line_styles(ways)
    assert list(styles) == ["baseline", "a", "a stages=0-5", "b", "b stages=0-5", *("cdefg"), "last=K", "mask=K"]
    assert len({tuple(sorted(style.items())) for style in styles.values()}) == len(ways)
    assert styles["a"]["color"] == styles["a stages=0-5"]["color"]
    assert len({style["color"] for style in styles.values()}) == 10


def test_table_and_plots_are_written(summary, tmp_path):
    names = [path.name for path in write_ablation([summary], tmp_path)]
    assert names[0] == "ablation.md"
    assert set(names[1:]) <= {"fake-suite-success-by-kept-share.png", "fake-suite-success-by-ttft.png"}
    assert all((tmp_path / name).stat().st_size > 0 for name in names)
    text = (tmp_path / "ablation.md").read_text()
    assert text.count("\n| ") == len(BACKENDS) + 3
    assert "**fake-suite**, 4 episodes" in text


def test_a_cell_in_which_nothing_was_dropped_is_marked(summary):
    name = "erecap?keep=0.5"
    cell = summary.backends[name]
    none = cell.model_copy(update={"dropped_tokens": cell.dropped_tokens.model_copy(update={"p50": 0.0, "max": 0})})
    marked = ablation_markdown([summary.model_copy(update={"backends": {**summary.backends, name: none}})])
    lines_with_none = [line for line in marked.splitlines() if "**none**" in line]
    assert [line.split(" | ")[0] for line in lines_with_none] == [f"| {name}"]
