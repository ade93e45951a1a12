"""The picture of why each backend replanned: one bar per backend, a part per reason."""

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.comparison.schema import Summary
from benchmarks.output.files import write_atomically
from benchmarks.reports.plots import COLORS, png
from benchmarks.reports.replan_table import REASON_HEADERS
from planner.answer import shortened

REASON_BARS_FILE = "replan_reasons.png"
BAR, MARGIN = 0.45, 1.7  # inches: each bar, and all that is not bars
WIDTH, LONGEST = 28, 112  # characters: of a line of a backend's name, and of all that is shown of it
SMALL = 0.04  # smaller parts have no room for their share


def write_reason_bars(summary: Summary, out: Path) -> list[Path]:
    """Write ``replan_reasons.png``.

    Parameters
    ----------
    summary : Summary
        Figures of a comparison.
    out : Path
        Directory of the picture.

    Returns
    -------
    list of Path
        The file; empty where no backend has figures about its replans.
    """
    figures = {name: b.replans for name, b in summary.backends.items() if b.replans is not None}
    if not figures:
        return []
    names = [shortened(name, LONGEST) for name in figures]
    labels = ["\n".join(textwrap.wrap(name, WIDTH)) for name in names]
    lines = sum(max(2, label.count("\n") + 1) for label in labels)
    figure = Figure(figsize=(7.2, MARGIN + BAR / 2 * lines), layout="constrained")
    axes = figure.subplots()
    reasons = [name for name in REASON_HEADERS if any(r.reasons.get(name) for r in figures.values())]
    left = [0.0] * len(figures)
    for reason in reasons:
        shares = [r.reasons.get(reason, 0.0) for r in figures.values()]
        _draw(axes, reason, labels, shares, left)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    _label(axes, len(figures))
    figure.legend(loc="outside lower left", ncols=min(4, len(reasons)), frameon=False, fontsize=9)
    write_atomically(out / REASON_BARS_FILE, png(figure))
    return [out / REASON_BARS_FILE]


def _draw(axes: Axes, reason: str, names: list[str], shares: list[float], left: list[float]) -> None:
    color = COLORS[list(REASON_HEADERS).index(reason)]
    bars = axes.barh(names, shares, left=left, color=color, label=reason.replace("_", " "), edgecolor="white")
    axes.bar_label(
        bars, [f"{100 * share:.0f}" if share >= SMALL else "" for share in shares], label_type="center", color="white", fontsize=8
    )


def _label(axes: Axes, bars: int) -> None:
    axes.set_title("Why a plan was asked for (closed loop)", loc="left", fontsize=11)
    axes.set_xlabel("share of all plans")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(bars - 0.5, -0.5)  # the first backend is on top
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
