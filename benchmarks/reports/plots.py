"""Plots of a run, one line per backend: the median, with the band between the quartiles."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agents.records import PlannerCall
from benchmarks.comparison.replay import ReplayRow
from benchmarks.output.files import write_atomically

Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours but yellow, and three more; people with any colour vision can tell the first ones apart, and lines and
# markers differ as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933", "#777777")
LINES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*<>"  # one for each colour
MIN_EPISODES = 3
BINS = 12
HEIGHT, LEGEND_LINE = 4.2, 0.2  # inches, the second for each line of a legend from the fifth on
LEGEND_WIDTH = 75  # characters of all names in one line


def write_plots(calls: Mapping[str, Sequence[PlannerCall]], rows: Sequence[ReplayRow], out: Path) -> list[Path]:
    """Write ``replan_latency.png`` and ``prompt_tokens.png`` (over the replan number) and ``latency_by_length.png``; their paths.

    ``calls`` by backend; a plot without any points is left out.
    """
    by_number = {backend: [(c.replan + 1, c.replan_s * 1000) for c in made] for backend, made in calls.items()}
    tokens = {backend: [(c.replan + 1, c.generation.prompt_tokens) for c in made] for backend, made in calls.items()}
    written = [
        _plot(out / "replan_latency.png", by_number, per_value, "replan number", "latency (ms)", "Replan latency (closed loop)"),
        _plot(out / "prompt_tokens.png", tokens, per_value, "replan number", "prompt tokens", "Prompt length (closed loop)"),
        _plot(
            out / "latency_by_length.png",
            ttft_points(rows),
            per_bin,
            "prompt tokens",
            "time to first token (ms)",
            "Time to first token on the same prompts (paired replay)",
        ),
    ]
    return [path for path in written if path is not None]


def ttft_points(rows: Sequence[ReplayRow]) -> dict[str, Points]:
    """(prompt tokens, TTFT in ms) of each replayed prompt, by backend."""
    backends = dict.fromkeys(backend for row in rows for backend in row.measured)
    return {
        backend: [(m.prompt_tokens, m.ttft_s * 1000) for row in rows if (m := row.measured.get(backend)) is not None]
        for backend in backends
    }


def per_value(points: Points) -> list[tuple[float, list[float]]]:
    """Values of y for each x, where there are enough of them; few episodes reach a high replan number, and they are not typical."""
    groups: dict[float, list[float]] = {}
    for x, y in points:
        groups.setdefault(x, []).append(y)
    enough = min(MIN_EPISODES, max((len(ys) for ys in groups.values()), default=0))
    return [(x, ys) for x, ys in sorted(groups.items()) if len(ys) >= enough]


def per_bin(points: Points) -> list[tuple[float, list[float]]]:
    """Values of y in bins of x that hold equally many points, each at its median x."""
    ordered = sorted(points)
    parts = np.array_split(np.asarray(ordered, dtype=np.float64).reshape(-1, 2), min(BINS, max(1, len(ordered))))
    return [(float(np.median(part[:, 0])), list(part[:, 1])) for part in parts if len(part)]


def _plot(
    path: Path,
    series: Mapping[str, Points],
    group: Callable[[Points], list[tuple[float, list[float]]]],
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
    _dress(figure, axes, x_label, y_label, title)
    write_atomically(path, png(figure))
    return path


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=144)
    return picture.getvalue()


def style(number: int, variant: int = 0) -> dict[str, Any]:
    """How matplotlib is to draw line ``number``. Its variants share colour and marker, which is hollow from the second on.

    Numbers beyond the colours are variants of the first ones.
    """
    turn, number = divmod(number, len(COLORS))
    variant, color = variant + turn, COLORS[number]
    return {
        "color": color,
        "linestyle": LINES[(number + variant) % len(LINES)],
        "marker": MARKERS[number],
        "markerfacecolor": "white" if variant else color,
    }


def _draw(axes: Axes, index: int, backend: str, grouped: list[tuple[float, list[float]]]) -> None:
    xs = [x for x, _ in grouped]
    low, middle, high = np.array([np.quantile(ys, [0.25, 0.5, 0.75]) for _, ys in grouped]).T
    look, every = style(index), max(1, len(xs) // 12)
    axes.fill_between(xs, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.plot(xs, middle, **look, markersize=4.5, markevery=(index % every, every), linewidth=1.8, label=backend)


def _dress(figure: Figure, axes: Axes, x_label: str, y_label: str, title: str) -> None:
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
