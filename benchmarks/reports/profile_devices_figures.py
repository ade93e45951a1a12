"""Figures of several devices: the comprehensive one, from a prediction and what was measured, and the communication test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.reports.plots import COLORS
from benchmarks.reports.profile_figures import (
    by_keep,
    draw_gap,
    draw_lengths,
    draw_memory_limit,
    keep_label,
    keep_style,
    make_log,
    tidy,
)
from benchmarks.reports.profile_results import Result
from erecap.profiling.comm_profile import pair_matrix
from erecap.profiling.units import format_bytes

Row = Mapping[str, Any]

SIZE = (15.0, 9.0)  # inches
LINES: dict[str, Any] = {"single": "-", "pipeline": "--", "tensor": ":"}
HATCH = "///"
"""Hatching of bars that are predicted."""


def several_devices_figure(prediction: Result, measured: Sequence[Result]) -> Figure:
    """Draw latency, speedup, FLOPs, memory, traffic and the parts of the time, as predicted, with what was measured beside.

    Parameters
    ----------
    prediction
        Result of ``erecap profile predict``.
    measured
        Prefills that ran on several devices of the same machine.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    (latency, speedup, parts), (flops, memory, traffic) = figure.subplots(2, 3)
    rates = prediction.content["rates"]
    figure.suptitle(f"Several devices, PREDICTED: {prediction.model} on {rates['devices']} x {rates['name']}", fontsize=13)
    points = _shown(prediction.points)
    _latency(latency, points, measured)
    _lines(
        speedup, "Predicted speedup over one device, same keep ratio", points, "predicted_speedup_over_single", 1.0, several=True
    )
    speedup.axhline(1, color="#777777", linewidth=1)
    speedup.set_ylim(bottom=0)
    speedup.set_ylabel("times as fast")
    per_device = [{**point, "device_flops": point["prefill_flops"] / point["devices"]} for point in points]
    _lines(flops, "FLOPs per device", per_device, "device_flops", 1e12)
    _lines(memory, "Memory per device, without activations", points, "needed_bytes", 1e9)
    _lines(traffic, "Traffic of a prefill", points, "prefill_traffic_bytes", 1e6, several=True)
    for axes, label in ((flops, "TFLOP"), (memory, "GB"), (traffic, "MB")):
        make_log(axes)
        axes.set_ylabel(label)
    _memory_limit(memory, rates)
    _parts(parts, points)
    _legend(figure, points)
    return figure


def _shown(points: Sequence[Row]) -> list[Row]:
    """Return the points without pruning and those of the lowest keep ratio; more lines could not be told apart."""
    keeps = {1.0, min((point["keep"] for point in points), default=1.0)}
    return [point for point in points if point["keep"] in keeps]


def _splits(points: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((point["parallel"], point["devices"]) for point in points))


def _name(split: tuple[str, int]) -> str:
    return "one device" if split[0] == "single" else f"{split[0]} over {split[1]}"


def _lines(axes: Axes, title: str, points: Sequence[Row], field: str, unit: float, several: bool = False) -> None:
    """Draw ``field`` by length: a colour per keep ratio, a kind of line per split. ``several`` leaves out the single device."""
    axes.set_title(title, loc="left", fontsize=11)
    drawn = [point for point in points if point[field] is not None and not (several and point["parallel"] == "single")]
    if not drawn:
        draw_gap(axes, "nothing to compare")
        return
    for split in _splits(drawn):
        for keep, own in by_keep([point for point in drawn if (point["parallel"], point["devices"]) == split]).items():
            look = keep_style(keep) | {"linestyle": LINES[split[0]], "markersize": 4}
            axes.plot([point["prompt_tokens"] for point in own], [point[field] / unit for point in own], **look)
    draw_lengths(axes, [point["prompt_tokens"] for point in drawn])


def _latency(axes: Axes, points: Sequence[Row], measured: Sequence[Result]) -> None:
    _lines(axes, "Time to the first token, predicted", points, "predicted_ttft_ms", 1.0)
    for result in measured:
        how = "stated by the seed" if result.kind == "stated" else "measured"
        for keep, own in by_keep(result.points).items():
            look = keep_style(keep) | {"linestyle": "none", "markersize": 10, "markerfacecolor": "none", "markeredgewidth": 2}
            label = f"{keep_label(keep)}, {result.devices} devices, {how}"
            axes.plot([p["prompt_tokens"] for p in own], [p["median_ttft_ms"] for p in own], **look, label=label)
    make_log(axes)
    axes.set_ylabel("ms")
    if measured:
        axes.legend(frameon=False, fontsize=8)


def _memory_limit(axes: Axes, rates: Row) -> None:
    if rates["memory_bytes"]:
        draw_memory_limit(axes, rates["memory_bytes"] / 1e9)


def _parts(axes: Axes, points: Sequence[Row]) -> None:
    """Draw the parts of the predicted time of the longest prompt as stacked, hatched bars."""
    longest = max((point["prompt_tokens"] for point in points), default=0)
    own = [point for point in points if point["prompt_tokens"] == longest]
    axes.set_title(f"Parts of the predicted time at {longest:,} tokens", loc="left", fontsize=11)
    names = [f"{_name((point['parallel'], point['devices']))}\n{keep_label(point['keep'])}" for point in own]
    busy = [point["predicted_busy_ms"] for point in own]
    sent = [point["predicted_traffic_ms"] for point in own]
    places = range(len(own))[::-1]
    axes.barh(places, busy, color=COLORS[0], edgecolor="white", hatch=HATCH, label="layers (compute, reading, launching)")
    axes.barh(places, sent, left=busy, color=COLORS[1], edgecolor="white", hatch=HATCH, label="traffic")
    for place, first, second in zip(places, busy, sent, strict=True):
        axes.annotate(f" {first + second:,.0f}", (first + second, place), va="center", fontsize=8)
    axes.set_yticks(list(places), names, fontsize=8)
    axes.set_xlabel("ms, predicted")
    axes.margins(x=0.12)
    tidy(axes)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _legend(figure: Figure, points: Sequence[Row]) -> None:
    keeps = [Line2D([], [], **keep_style(keep), label=keep_label(keep)) for keep in by_keep(points)]
    kinds = [Line2D([], [], color="#555555", linestyle=LINES[split[0]], label=_name(split)) for split in _splits(points)]
    hatched = Patch(facecolor="#BBBBBB", edgecolor="white", hatch=HATCH, label="predicted, not measured (all lines and bars)")
    figure.legend(handles=[*keeps, *kinds, hatched], loc="outside lower center", ncols=len(keeps) + len(kinds) + 1, frameon=False)


def comm_figure(result: Result) -> Figure:
    """Draw the bandwidth and latency matrices and the all-reduce by size of a communication test."""
    figure = Figure(figsize=(15.0, 4.8), layout="constrained")
    bandwidth, latency, reduce = figure.subplots(1, 3)
    content = result.content
    between = f"{content.get('processes', 1)} x {result.machine}, {content.get('backend', '')}"
    figure.suptitle(f"Communication: {between}", fontsize=12)
    sends = [point for point in result.points if point["test"] == "send"]
    sizes = [point["size_bytes"] for point in sends]
    if sends:
        unit = ("GB/s", 1e9)
        _heat(bandwidth, "Bandwidth", sends, max(sizes), "bandwidth_bytes_per_s", unit)
        _heat(latency, "Time of a message", sends, min(sizes), "median_time_us", ("us", 1.0), reverse=True)
    else:
        _copies(bandwidth, result.points)
        draw_gap(latency, "one device: there is no other to talk to")
    _all_reduce(reduce, [point for point in result.points if point["test"] == "all_reduce"])
    return figure


def draw_comm(content: Row, _: Sequence[Row]) -> Figure:
    """Draw the content of a communication test's result file."""
    return comm_figure(Result(Path(), content))


def draw_prediction(content: Row, _: Sequence[Row]) -> Figure:
    """Draw the content of a prediction's result file."""
    return several_devices_figure(Result(Path(), content), [])


def _heat(
    axes: Axes, title: str, sends: Sequence[Row], size: int, field: str, unit: tuple[str, float], reverse: bool = False
) -> None:
    name, scale = unit
    matrix = [[None if value is None else value / scale for value in row] for row in pair_matrix(sends, size, field)]
    colors = matplotlib.colormaps["viridis_r" if reverse else "viridis"].with_extremes(bad="#EEEEEE")
    shown = [[float("nan") if value is None else value for value in row] for row in matrix]
    picture = axes.imshow(shown, cmap=colors)
    axes.figure.colorbar(picture, ax=axes, label=name, shrink=0.8)
    for source, row in enumerate(matrix):
        for target, value in enumerate(row):
            if value is not None:
                red, green, blue, _ = colors(np.asarray(picture.norm(np.asarray(value))))
                ink = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else "black"
                axes.text(target, source, f"{value:.3g}", ha="center", va="center", color=ink, fontsize=10)
    axes.set_title(f"{title}, {format_bytes(size)} ({name})", loc="left", fontsize=11)
    axes.set_xticks(range(len(matrix)), [f"to {number}" for number in range(len(matrix))])
    axes.set_yticks(range(len(matrix)), [f"from {number}" for number in range(len(matrix))])


def _copies(axes: Axes, points: Sequence[Row]) -> None:
    axes.set_title("Copies by size", loc="left", fontsize=11)
    for number, name in enumerate(dict.fromkeys(point["test"] for point in points)):
        own = [point for point in points if point["test"] == name]
        rates = [point["bandwidth_bytes_per_s"] / 1e9 for point in own]
        axes.plot([point["size_bytes"] for point in own], rates, color=COLORS[number], marker="o", label=name)
    _sizes(axes, [point["size_bytes"] for point in points])
    make_log(axes)
    axes.set_ylabel("GB/s")
    axes.legend(frameon=False, fontsize=9)


def _all_reduce(axes: Axes, points: Sequence[Row]) -> None:
    axes.set_title("All-reduce by size", loc="left", fontsize=11)
    if not points:
        draw_gap(axes, "no all-reduce was measured")
        return
    sizes = [point["size_bytes"] for point in points]
    for number, (field, name) in enumerate((("busbw_bytes_per_s", "busbw"), ("algbw_bytes_per_s", "algbw"))):
        look: dict[str, Any] = {"color": COLORS[number], "marker": "os"[number], "linestyle": ("-", "--")[number]}
        axes.plot(sizes, [point[field] / 1e9 for point in points], **look, label=f"{name} (GB/s)")
    _sizes(axes, sizes)
    make_log(axes)
    axes.set_ylabel("GB/s")
    axes.legend(frameon=False, fontsize=9)


def _sizes(axes: Axes, sizes: Sequence[int]) -> None:
    marks = sorted(set(sizes))
    axes.set_xscale("log", base=2)
    axes.set_xticks(marks, [format_bytes(mark).replace(".0 ", " ") for mark in marks], rotation=30, ha="right")
    axes.set_xlabel("bytes")
    tidy(axes)
