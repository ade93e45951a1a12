"""What success costs: plots of success against kept share and against time to first token, one line per way of choosing."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from benchmarks.backends.registry import EXPERT
from benchmarks.comparison.schema import BackendSummary, Summary
from benchmarks.output.files import write_atomically
from benchmarks.reports.plots import png, style
from planner import BackendSpec

BUDGET_OPTIONS = ("keep", "last", "mask", "budget_ms")
"""Options that say how much; what they have in common is one line."""
FAR_MORE = 2.0
Place = Callable[[str, BackendSummary], float | None]


def write_frontiers(summary: Summary, out: Path) -> list[Path]:
    """``SUITE-success-by-kept-share.png`` and, where prompts were replayed, ``SUITE-success-by-ttft.png``; their paths."""
    speed = {name: paired.ttft_speedup_p50 for name, paired in summary.paired.items()} | {summary.reference: 1.0}

    def relative_ttft(name: str, cell: BackendSummary) -> float | None:
        gain = speed.get(name)
        return None if gain is None else 1.0 / gain

    axes: dict[str, tuple[str, str, Place]] = {
        "kept-share": ("what is kept", "mean share of the prompt's tokens that a layer sees", lambda name, cell: cell.kept_share),
        "ttft": ("time to first token", "time to first token, share of the unpruned planner's", relative_ttft),
    }
    paths = []
    for name, (cost, label, place) in axes.items():
        found = lines(summary, place)
        if any(len(points) > 0 for key, points in found.items() if key != summary.reference):
            path = out / f"{summary.suite}-success-by-{name}.png"
            write_atomically(path, _draw(summary, found, cost, label))
            paths.append(path)
    return paths


def lines(summary: Summary, place: Place) -> dict[str, list[tuple[float, BackendSummary]]]:
    """Per way of choosing, the cells at rising x; cells without an x are left out, as is the expert."""
    found: dict[str, list[tuple[float, BackendSummary]]] = {}
    for name, cell in summary.backends.items():
        x = None if name == EXPERT else place(name, cell)
        if x is not None:
            found.setdefault(way_of(name), []).append((x, cell))
    return {way: sorted(points, key=lambda point: point[0]) for way, points in found.items()}


def way_of(spec: str) -> str:
    """The name of a spec's line: its selector, or how it cuts the text, or the backend itself."""
    parsed = BackendSpec.parse(spec)
    if parsed.name == "erecap":
        others = [f"{k}={v}" for k, v in parsed.options.items() if k not in (*BUDGET_OPTIONS, "selector")]
        return " ".join([parsed.options.get("selector", "learned"), *others])
    trims = [key for key in ("last", "mask") if key in parsed.options]
    return f"{trims[0]}=K" if trims else spec


def looks(ways: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A style for each line. Those of one selector look alike: their names begin with it."""
    families: dict[str, list[str]] = {}
    for way in ways:
        families.setdefault(way.partition(" ")[0], []).append(way)
    return {way: style(number, variant) for number, members in enumerate(families.values()) for variant, way in enumerate(members)}


def _draw(summary: Summary, found: Mapping[str, list[tuple[float, BackendSummary]]], cost: str, label: str) -> bytes:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    styles = looks(found)
    for way, points in found.items():
        _line(axes, styles[way], way, points)
    if EXPERT in summary.backends:
        axes.axhline(100 * summary.backends[EXPERT].success_rate, color="0.6", linewidth=1, linestyle=":", label="expert")
    axes.set_title(f"{summary.suite}: success against {cost} (95% intervals)", loc="left", fontsize=11)
    axes.set(xlabel=label, ylabel="success (%)", ylim=(0, 104))
    _spread(axes, [x for points in found.values() for x, _ in points])
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return png(figure)


def _spread(axes: Axes, xs: list[float]) -> None:
    """From nothing to the whole, or in octaves where something costs far more than the whole: an oracle, five times as much."""
    most = max(1.0, *xs)
    if most <= FAR_MORE:
        axes.set_xlim(0, most + 0.04)
        return
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(xs) / 1.1, most * 1.1)
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _line(axes: Axes, look: Mapping[str, Any], way: str, points: list[tuple[float, BackendSummary]]) -> None:
    rates = [100 * cell.success_rate for _, cell in points]
    below = [rate - 100 * cell.success_ci95[0] for rate, (_, cell) in zip(rates, points, strict=True)]
    above = [100 * cell.success_ci95[1] - rate for rate, (_, cell) in zip(rates, points, strict=True)]
    axes.errorbar(
        [x for x, _ in points],
        rates,
        yerr=[[max(0.0, value) for value in below], [max(0.0, value) for value in above]],
        **look,
        markersize=5,
        linewidth=1.6,
        capsize=2.5,
        label=way,
    )
