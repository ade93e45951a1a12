"""Plots of success against cost: against kept share, and against time to first token.

A line joins the backends that choose tokens in the same way and differ only in how many they keep.
"""

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

_AMOUNT_OPTIONS = ("keep", "last", "mask", "budget_ms")
"""Options of a backend that set how much is kept. Backends that differ only in these share a line."""
_LARGE_COST = 2.0
"""The x axis is logarithmic if a backend costs at least this multiple of the unpruned planner's cost."""
XAxis = Callable[[str, BackendSummary], float | None]
"""A function from a backend's spec string and figures to its x value; ``None`` where it has none."""


def write_frontiers(summary: Summary, out: Path) -> list[Path]:
    """Write ``SUITE-success-by-kept-share.png`` and, where prompts were replayed, ``SUITE-success-by-ttft.png``.

    Parameters
    ----------
    summary : Summary
        Figures of a suite.
    out : Path
        Directory of the plots.

    Returns
    -------
    list of Path
        The files.
    """
    speed = {name: paired.ttft_speedup_p50 for name, paired in summary.paired.items()} | {summary.reference: 1.0}

    def relative_ttft(name: str, cell: BackendSummary) -> float | None:
        gain = speed.get(name)
        return None if gain is None else 1.0 / gain

    axes: dict[str, tuple[str, str, XAxis]] = {
        "kept-share": ("what is kept", "mean share of the prompt's tokens that a layer sees", lambda name, cell: cell.kept_share),
        "ttft": ("time to first token", "time to first token, share of the unpruned planner's", relative_ttft),
    }
    paths = []
    for name, (title, label, cost) in axes.items():
        found = frontier_lines(summary, cost)
        if any(len(points) > 0 for key, points in found.items() if key != summary.reference):
            path = out / f"{summary.suite}-success-by-{name}.png"
            write_atomically(path, _draw(summary, found, title, label))
            paths.append(path)
    return paths


def frontier_lines(summary: Summary, cost: XAxis) -> dict[str, list[tuple[float, BackendSummary]]]:
    """Sort the backends of a suite into lines.

    Parameters
    ----------
    summary : Summary
        Figures of the suite.
    cost : XAxis
        Function that computes x values.

    Returns
    -------
    dict of str to list of tuple
        By name of the line, its points (x, figures) at rising x. The expert and backends without an x value are left out.
    """
    found: dict[str, list[tuple[float, BackendSummary]]] = {}
    for name, cell in summary.backends.items():
        x = None if name == EXPERT else cost(name, cell)
        if x is not None:
            found.setdefault(line_of(name), []).append((x, cell))
    return {line: sorted(points, key=lambda point: point[0]) for line, points in found.items()}


def line_of(spec: str) -> str:
    """Name the line of a backend: by selector and other options, by the way it trims the text, or by its spec string."""
    parsed = BackendSpec.parse(spec)
    if parsed.name == "erecap":
        others = [f"{k}={v}" for k, v in parsed.options.items() if k not in (*_AMOUNT_OPTIONS, "selector")]
        return " ".join([parsed.options.get("selector", "learned"), *others])
    trims = [key for key in ("last", "mask") if key in parsed.options]
    return f"{trims[0]}=K" if trims else spec


def line_styles(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Choose a style for each line. Lines whose names begin with the same selector share colour and marker.

    Parameters
    ----------
    lines : iterable of str
        Names of the lines.

    Returns
    -------
    dict of str to dict
        By name, the keyword arguments of matplotlib's ``plot``.
    """
    families: dict[str, list[str]] = {}
    for line in lines:
        families.setdefault(line.partition(" ")[0], []).append(line)
    return {
        line: style(number, variant) for number, members in enumerate(families.values()) for variant, line in enumerate(members)
    }


def _draw(summary: Summary, found: Mapping[str, list[tuple[float, BackendSummary]]], title: str, label: str) -> bytes:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(found)
    for line, points in found.items():
        _draw_line(axes, styles[line], line, points)
    if EXPERT in summary.backends:
        axes.axhline(100 * summary.backends[EXPERT].success_rate, color="0.6", linewidth=1, linestyle=":", label="expert")
    axes.set_title(f"{summary.suite}: success against {title} (95% intervals)", loc="left", fontsize=11)
    axes.set(xlabel=label, ylabel="success (%)", ylim=(0, 104))
    _set_x_axis(axes, [x for points in found.values() for x, _ in points])
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return png(figure)


def _set_x_axis(axes: Axes, xs: list[float]) -> None:
    """Set the x axis: from 0 to the unpruned planner's cost, or logarithmic where a backend, such as an oracle, costs far more."""
    most = max(1.0, *xs)
    if most <= _LARGE_COST:
        axes.set_xlim(0, most + 0.04)
        return
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(xs) / 1.1, most * 1.1)
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _draw_line(axes: Axes, look: Mapping[str, Any], line: str, points: list[tuple[float, BackendSummary]]) -> None:
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
        label=line,
    )
