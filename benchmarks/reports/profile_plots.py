"""Plots of the measurements of ``erecap profile``: one picture per result file, one line or bar per keep ratio."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.output.files import write_atomically
from benchmarks.reports.plots import COLORS, png, style
from benchmarks.reports.profile_devices_figures import draw_comm, draw_prediction
from erecap.profiling.results import measured_points

Row = Mapping[str, Any]


def write_profile_plot(content: Row, result: Path) -> Path | None:
    """Draw the content of a result file to a PNG of the same name.

    Parameters
    ----------
    content
        Content of the result file. The measurement may be incomplete.
    result
        Path of the result file.

    Returns
    -------
    Path or None
        The picture; ``None`` for a measurement that has none, or without a measured point.
    """
    points = measured_points(content["points"])
    draw = PLOTS.get(content["kind"])
    if draw is None or not points:
        return None
    path = result.with_suffix(".png")
    write_atomically(path, png(draw(content, points)))
    return path


def _prefill(content: Row, points: Sequence[Row]) -> Figure:
    """Draw TTFT by length, and the speedup against its ceiling, on lengths met before and on new ones."""
    figure, (left, right) = _panels(content, "prefill", 2)
    for number, (keep, own) in enumerate(_by_keep(points).items()):
        lengths = [point["prompt_tokens"] for point in own]
        left.plot(lengths, [point["median_ttft_ms"] for point in own], **style(number) | {"linestyle": "-"}, label=f"keep {keep:g}")
        if keep == 1 or "speedup" not in own[0]:
            continue
        right.plot(lengths, [point["speedup"] for point in own], **style(number) | {"linestyle": "-"}, label=f"keep {keep:g}")
        right.plot(
            lengths, [point["ceiling"] for point in own], color=COLORS[number], linestyle=":", label=f"keep {keep:g}, ceiling"
        )
        new = [(point["prompt_tokens"], point["new_speedup"]) for point in own if "new_speedup" in point]
        if new:
            right.plot(*zip(*new, strict=True), **style(number, 1) | {"linestyle": "none"}, label=f"keep {keep:g}, new lengths")
    _scale(left)
    _label(left, "prompt tokens", "time to first token (ms)", _lengths(points))
    _label(right, "prompt tokens", "speedup over keep 1", _lengths(points))
    right.set_ylim(bottom=0)
    return figure


def _generate(content: Row, points: Sequence[Row]) -> Figure:
    """Draw TTFT and TPOT as bars, with the time to read the weights once as a line in each group."""
    figure, panels = _panels(content, "generate", 2)
    groups = list(dict.fromkeys(_group(point) for point in points))
    for axes, name, label in zip(panels, ("ttft", "tpot"), ("time to first token (ms)", "time per output token (ms)"), strict=True):
        _bars(axes, groups, points, f"median_{name}_ms")
        axes.set_xticks([place + 0.4 for place in range(len(groups))], groups)
        _label(axes, "", label)
    floors = [next(point["floor_tpot_ms"] for point in points if _group(point) == group) for group in groups]
    for place, floor in enumerate(floors):
        panels[1].hlines(floor, place, place + 0.8, colors="black", linestyles=":", label="" if place else "reading the weights")
    panels[1].legend(frameon=False, fontsize=9)
    return figure


def _bars(axes: Axes, groups: Sequence[str], points: Sequence[Row], figure: str) -> None:
    """Draw ``figure`` as one bar per keep ratio in each group; a group is 0.8 wide."""
    keeps = _by_keep(points)
    width = 0.8 / len(keeps)
    for number, (keep, own) in enumerate(keeps.items()):
        places = [groups.index(_group(point)) + (number + 0.5) * width for point in own]
        axes.bar(places, [point[figure] for point in own], 0.95 * width, color=COLORS[number], label=f"keep {keep:g}")


def _group(point: Row) -> str:
    return f"{point['prompt_tokens']} tokens\n{point['decoder']}"


def _batch(content: Row, points: Sequence[Row]) -> Figure:
    """Draw replans per second, and the time of one batch, by the number of prompts in it: a line per length and keep ratio."""
    figure, panels = _panels(content, "prompts answered together", 2)
    cases = list(dict.fromkeys((point["prompt_tokens"], point["keep"]) for point in points))
    labels = ("replans per second", "time of a batch (ms)")
    for axes, name, label in zip(panels, ("replans_per_s", "median_batch_ms"), labels, strict=True):
        for number, case in enumerate(cases):
            own = [point for point in points if (point["prompt_tokens"], point["keep"]) == case]
            sizes, values = [point["batch_size"] for point in own], [point[name] for point in own]
            axes.plot(sizes, values, **style(number), label=f"up to {case[0]} tokens, keep {case[1]:g}")
        _label(axes, "prompts in a batch", label)
        axes.set_ylim(bottom=0)
    return figure


def _memory(content: Row, points: Sequence[Row]) -> Figure:
    """Draw the memory of a prefill by length, and the formula."""
    figure, (axes,) = _panels(content, "memory of a prefill, without the weights", 1)
    for number, (keep, own) in enumerate(_by_keep(points).items()):
        lengths = [point["prompt_tokens"] for point in own]
        read = [point.get("prefill_bytes", point["peak_memory_bytes"]) / 1e6 for point in own]
        axes.plot(lengths, read, **style(number) | {"linestyle": "none"}, label=f"keep {keep:g}, measured")
        formula = [point.get("formula_prefill_bytes", point["formula_bytes"]) / 1e6 for point in own]
        axes.plot(lengths, formula, color=COLORS[number], linestyle="--", label=f"keep {keep:g}, formula")
    _scale(axes)
    _label(axes, "prompt tokens", "MB", _lengths(points))
    return figure


def _trace(content: Row, points: Sequence[Row]) -> Figure:
    """Draw the parts of each prefill as one bar."""
    figure, (axes,) = _panels(content, "where the time of a prefill goes", 1)
    names = [f"{point['prompt_tokens']} tokens, keep {point['keep']:g}" for point in points]
    left = [0.0] * len(points)
    for number, part in enumerate(points[0]["parts_ms"]):
        widths = [point["parts_ms"][part] for point in points]
        axes.barh(names, widths, left=left, color=[*COLORS, "#DDDDDD"][number % (len(COLORS) + 1)], label=part)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    _label(axes, "ms on the device", "")
    axes.legend(frameon=False, fontsize=8, ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


PLOTS: dict[str, Callable[[Row, Sequence[Row]], Figure]] = {
    "prefill": _prefill,
    "generate": _generate,
    "batch": _batch,
    "memory": _memory,
    "trace": _trace,
    "comm": draw_comm,
    "predict": draw_prediction,
}
"""By measurement, the function that draws the content of a result file and its measured points."""


def _by_keep(points: Sequence[Row]) -> dict[float, list[Row]]:
    """Group the points by keep ratio, the baseline first."""
    keeps = sorted({point["keep"] for point in points}, reverse=True)
    return {keep: [point for point in points if point["keep"] == keep] for keep in keeps}


def _lengths(points: Sequence[Row]) -> list[int]:
    return sorted({point["prompt_tokens"] for point in points})


def _panels(content: Row, what: str, count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.6 * count + 1.6, 4.6), layout="constrained")
    model, machine = content["model"], content["machine"]
    figure.suptitle(f"{what}\n{model['model_id']}, {model['dtype']} on {machine['device_name']}", fontsize=11)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _scale(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at 1, 2 and 5."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _label(axes: Axes, x_label: str, y_label: str, lengths: Sequence[int] = ()) -> None:
    """Label the axes. With ``lengths`` the x axis is logarithmic and has a mark at each of them."""
    if lengths:
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
