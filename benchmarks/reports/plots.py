"""Plots of a comparison, one line per backend: the median, and a band between the quartiles."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from agents.records import PlannerCall
from benchmarks.comparison.replay import ReplayRow
from benchmarks.comparison.summary import ttft_growth
from benchmarks.output.files import write_atomically
from benchmarks.reports.format import per_thousand

Points = Sequence[tuple[float, float]]
"""Pairs (x, y)."""
Groups = list[tuple[float, list[float]]]
"""The y values of each x."""

# The colours of Okabe and Ito, safe for colour-blind readers, without yellow, and three more. Line styles and markers differ too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933", "#777777")
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*<>"  # one for each colour
MIN_EPISODES = 3  # replan numbers that fewer episodes reach are left out
BINS = 12
HEIGHT, LEGEND_LINE = 4.2, 0.2  # inches: the figure, and each line of the legend from the fifth on
LEGEND_WIDTH = 75  # characters: longer names are put on separate lines


def write_plots(calls: Mapping[str, Sequence[PlannerCall]], rows: Sequence[ReplayRow], out: Path) -> list[Path]:
    """Write ``replan_latency.png`` and ``prompt_tokens.png`` (over the replan number), and ``latency_by_length.png``.

    Parameters
    ----------
    calls : mapping of str to sequence of PlannerCall
        Replans of the closed loop by spec string.
    rows : sequence of ReplayRow
        Replayed prompts.
    out : Path
        Directory of the plots.

    Returns
    -------
    list of Path
        The files. A plot without points is left out.
    """
    by_number = {backend: [(c.replan + 1, c.replan_s * 1000) for c in made] for backend, made in calls.items()}
    tokens = {
        backend: [(c.replan + 1, c.generation.prompt_tokens) for c in made if c.generation.prompt_tokens]
        for backend, made in calls.items()
    }
    written = [
        _plot(out / "replan_latency.png", by_number, per_value, "replan number", "latency (ms)", "Replan latency (closed loop)"),
        _plot(out / "prompt_tokens.png", tokens, per_value, "replan number", "prompt tokens", "Prompt length (closed loop)"),
        _plot(
            out / "latency_by_length.png",
            _with_growth(_ttft_points(rows), rows),
            per_bin,
            "prompt tokens",
            "time to first token (ms)",
            "Time to first token on the same prompts (paired replay)",
        ),
    ]
    return [path for path in written if path is not None]


def _ttft_points(rows: Sequence[ReplayRow]) -> dict[str, Points]:
    """Return (prompt tokens, TTFT in ms) of each replayed prompt, by backend."""
    backends = dict.fromkeys(backend for row in rows for backend in row.measured)
    return {
        backend: [(m.prompt_tokens, m.ttft_s * 1000) for row in rows if (m := row.measured.get(backend)) is not None and m.ttft_s]
        for backend in backends
    }


def _with_growth(series: Mapping[str, Points], rows: Sequence[ReplayRow]) -> dict[str, Points]:
    """Name each line after its backend and its growth (``ttft_growth``)."""
    named = {}
    for backend, points in series.items():
        growth = ttft_growth([row.measured[backend] for row in rows if backend in row.measured])
        named[backend if growth is None else f"{backend} ({per_thousand(growth)})"] = points
    return named


def per_value(points: Points) -> Groups:
    """Group the y values by x. An x with fewer than ``MIN_EPISODES`` values is left out, unless all have fewer.

    Only unusual episodes reach a high replan number.
    """
    groups: dict[float, list[float]] = {}
    for x, y in points:
        groups.setdefault(x, []).append(y)
    enough = min(MIN_EPISODES, max((len(ys) for ys in groups.values()), default=0))
    return [(x, ys) for x, ys in sorted(groups.items()) if len(ys) >= enough]


def per_bin(points: Points) -> Groups:
    """Group the y values into ``BINS`` bins of x with the same number of points; the x of a bin is its median."""
    ordered = sorted(points)
    parts = np.array_split(np.asarray(ordered, dtype=np.float64).reshape(-1, 2), min(BINS, max(1, len(ordered))))
    return [(float(np.median(part[:, 0])), list(part[:, 1])) for part in parts if len(part)]


def _plot(
    path: Path,
    series: Mapping[str, Points],
    group: Callable[[Points], Groups],
    x_label: str,
    y_label: str,
    title: str,
) -> Path | None:
    drawn = {backend: grouped for backend, points in series.items() if (grouped := group(points))}
    if not drawn:
        return None
    figure = Figure(figsize=(7.2, HEIGHT), layout="constrained")
    axes = figure.subplots()
    for index, (backend, grouped) in enumerate(drawn.items()):
        _draw(axes, index, backend, grouped)
    _label(figure, axes, x_label, y_label, title)
    write_atomically(path, png(figure))
    return path


def png(figure: Figure) -> bytes:
    """Render the figure as a PNG."""
    picture = io.BytesIO()
    _read_no_math(figure)
    figure.savefig(picture, format="png", dpi=144)
    return picture.getvalue()


def _read_no_math(figure: Figure) -> None:
    """Draw names of backends, paths and tokens as they are, with their dollar signs. Numbers at the axes keep their exponents."""
    scales = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    numbers = {text for axis in scales for text in axis.findobj(Text) if text is not axis.label}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in numbers:
            text.set_parse_math(False)


def style(number: int, variant: int = 0) -> dict[str, Any]:
    """Choose how to draw a line.

    Parameters
    ----------
    number : int
        Number of the line, from 0. Beyond the number of colours, variants of the first lines are used.
    variant : int
        Number of the variant, from 0. Variants have the same colour and marker; the marker is hollow from variant 1 on.

    Returns
    -------
    dict
        Keyword arguments of matplotlib's ``plot``.
    """
    turn, number = divmod(number, len(COLORS))
    variant, color = variant + turn, COLORS[number]
    return {
        "color": color,
        "linestyle": LINES[(number + variant) % len(LINES)],
        "marker": MARKERS[number],
        "markerfacecolor": "white" if variant else color,
    }


def _draw(axes: Axes, index: int, backend: str, grouped: Groups) -> None:
    xs = [x for x, _ in grouped]
    low, middle, high = np.array([np.quantile(ys, [0.25, 0.5, 0.75]) for _, ys in grouped]).T
    look, every = style(index), max(1, len(xs) // 12)
    axes.fill_between(xs, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(xs, middle, **look, markersize=4.5, markevery=(index % every, every), linewidth=1.8, label=backend)


def _label(figure: Figure, axes: Axes, x_label: str, y_label: str, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    lines, names = axes.get_legend_handles_labels()
    columns = len(names) if sum(map(len, names)) < LEGEND_WIDTH else 1
    figure.set_figheight(HEIGHT + LEGEND_LINE * max(0, len(names) // columns - 4))
    figure.legend(
        lines, names, loc="outside lower left", ncols=columns, frameon=False, fontsize=9,
        title="median, quartiles shaded", title_fontsize=8, alignment="left",
    )  # fmt: skip
