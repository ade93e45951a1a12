"""The comprehensive figure of one device: latency, speedup, FLOPs and memory by prompt length and keep ratio."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.reports.plots import COLORS, MARKERS
from benchmarks.reports.profile_results import Group, Result

Row = Mapping[str, Any]

SIZE = (11.5, 8.6)  # inches
KEEP_COLORS = {1.0: COLORS[6], 0.9: COLORS[2], 0.8: COLORS[0], 0.7: COLORS[1]}
CEILING = "dashed: ceiling, the most that the dropped tokens allow"


def single_device_figure(group: Group) -> Figure:
    """Draw latency, speedup, FLOPs and memory of one model on one device. A panel without figures says what it lacks."""
    figure = Figure(figsize=SIZE, layout="constrained")
    (latency, speedup), (flops, memory) = figure.subplots(2, 2)
    figure.suptitle(_title(group), fontsize=12)
    prefill = group.prefill
    _panel(latency, prefill, "prefill", "Time to the first token", _draw_latency)
    _panel(speedup, prefill, "prefill", "Speedup over no pruning", _draw_speedup)
    _panel(flops, _with(prefill, "analytic_flops"), "prefill", "FLOPs of a prefill", _draw_flops)
    _panel(
        memory,
        group.others.get("memory") or _with(prefill, "peak_memory_bytes"),
        "memory",
        "Peak memory of a prefill",
        _draw_memory,
    )
    return figure


def _title(group: Group) -> str:
    if group.prefill is None:
        return f"One device: {group.title}"
    stated = " (as stated by the seed, not measured here)" if group.prefill.kind == "stated" else ""
    kernel = group.prefill.content.get("sdpa_backend")
    return f"One device: {group.title}{stated}\n{group.prefill.path.name}{f', attention: {kernel}' if kernel else ''}"


def _with(prefill: Result | None, field: str) -> Result | None:
    """Return the prefills where all of them have ``field``."""
    return prefill if prefill is not None and all(field in point for point in prefill.points) else None


def _panel(axes: Axes, result: Result | None, kind: str, title: str, draw: Callable[[Axes, Result], None]) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    if result is None or not result.points:
        draw_gap(axes, f"not measured\n`erecap profile {kind}`")
        return
    draw(axes, result)
    draw_lengths(axes, [point["prompt_tokens"] for point in result.points])


def draw_gap(axes: Axes, text: str) -> None:
    """Leave a labelled gap."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#777777", fontsize=11, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#CCCCCC")
        spine.set_linestyle((0, (4, 4)))


def draw_lengths(axes: Axes, lengths: Sequence[int]) -> None:
    """Make the x axis one of prompt lengths, a mark at each, and put a grid behind the lines."""
    marks = sorted(set(lengths))
    axes.set_xscale("log", base=2)
    axes.set_xticks(marks, [f"{mark // 1024}K" if mark % 1024 == 0 else f"{mark:,}" for mark in marks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("prompt tokens")
    tidy(axes)


def tidy(axes: Axes) -> None:
    """Put a light grid behind what is drawn, and take away the frame above and at the right."""
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def make_log(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers at the powers of ten, and at 2 and 5 times them where there is room."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e5 * low else (1.0,), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def keep_style(keep: float) -> dict[str, Any]:
    """Choose colour and marker for a keep ratio."""
    known = list(KEEP_COLORS)
    number = known.index(keep) if keep in known else int(keep * 100) % len(MARKERS)
    return {
        "color": KEEP_COLORS.get(keep, COLORS[number % len(COLORS)]),
        "marker": MARKERS[number],
        "markersize": 5,
        "linewidth": 1.6,
    }


def keep_label(keep: float) -> str:
    """Name a keep ratio in a legend."""
    return "no pruning" if keep == 1 else f"keep {keep:g}"


def by_keep(points: Sequence[Row]) -> dict[float, list[Row]]:
    """Group points by keep ratio, no pruning first, each in the order of lengths."""
    keeps = sorted({point["keep"] for point in points}, reverse=True)
    return {
        keep: sorted((point for point in points if point["keep"] == keep), key=lambda point: int(point["prompt_tokens"]))
        for keep in keeps
    }


def _lengths(points: Sequence[Row]) -> list[int]:
    return [point["prompt_tokens"] for point in points]


def _draw_latency(axes: Axes, result: Result) -> None:
    for keep, own in by_keep(result.points).items():
        look = keep_style(keep) | ({"linestyle": "none"} if result.kind == "stated" else {})
        axes.plot(_lengths(own), [point["median_ttft_ms"] for point in own], **look, label=keep_label(keep))
        if all("p25_ttft_ms" in point for point in own):
            low, high = ([point[f"p{share}_ttft_ms"] for point in own] for share in (25, 75))
            axes.fill_between(_lengths(own), low, high, color=look["color"], alpha=0.2, linewidth=0)
    make_log(axes)
    axes.set_ylabel("ms, as stated" if result.kind == "stated" else "ms, median (quartiles shaded)")
    axes.legend(frameon=False, fontsize=9)


def _draw_speedup(axes: Axes, result: Result) -> None:
    ceilings = False
    for keep, own in by_keep(result.points).items():
        gained = [point for point in own if "speedup" in point]
        if keep == 1 or not gained:
            continue
        look = keep_style(keep)
        axes.plot(_lengths(gained), [point["speedup"] for point in gained], **look, label=keep_label(keep))
        if all("ceiling" in point for point in gained):
            ceilings = True
            axes.plot(_lengths(gained), [point["ceiling"] for point in gained], color=look["color"], linestyle="--", linewidth=1.3)
        new = [point for point in gained if "new_speedup" in point]
        if new:
            hollow = look | {"linestyle": "none", "markerfacecolor": "white"}
            axes.plot(_lengths(new), [point["new_speedup"] for point in new], **hollow, label=f"{keep_label(keep)}, new lengths")
    axes.axhline(1, color="#777777", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("times as fast")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, title=CEILING if ceilings else None, title_fontsize=8, alignment="left")


def _draw_flops(axes: Axes, result: Result) -> None:
    drawn = by_keep(result.points)
    full = {point["prompt_tokens"]: point["analytic_flops"] for point in drawn.get(1.0, [])}
    for keep, own in drawn.items():
        saved = [1 - point["analytic_flops"] / full[point["prompt_tokens"]] for point in own if point["prompt_tokens"] in full]
        label = keep_label(keep) + (f": {-min(saved):.0%} to {-max(saved):.0%}" if saved and keep != 1 else "")
        axes.plot(_lengths(own), [point["analytic_flops"] / 1e12 for point in own], **keep_style(keep), label=label)
        counted = [point for point in own if "counted_flops" in point]
        look = keep_style(keep) | {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot(_lengths(counted), [point["counted_flops"] / 1e12 for point in counted], **look)
    make_log(axes)
    axes.set_ylabel("TFLOP")
    axes.legend(
        frameon=False, fontsize=9, title="lines: from the config; rings: counted by torch", title_fontsize=8, alignment="left"
    )


def _draw_memory(axes: Axes, result: Result) -> None:
    for keep, own in by_keep(result.points).items():
        read = [(point["prompt_tokens"], _peak(point) / 1e9) for point in own if _peak(point)]
        look = keep_style(keep)
        axes.plot(*zip(*read, strict=True), **look | {"linestyle": "none"}, label=keep_label(keep)) if read else None
        formula = [(point["prompt_tokens"], point["formula_bytes"] / 1e9) for point in own if "formula_bytes" in point]
        if formula:
            axes.plot(*zip(*formula, strict=True), color=look["color"], linestyle=":", linewidth=1.4)
        cache = [(point["prompt_tokens"], point["kv_bytes"] / 1e9) for point in own if "kv_bytes" in point]
        if cache:
            axes.plot(*zip(*cache, strict=True), color=look["color"], linewidth=1, alpha=0.7)
    limit = result.content["machine"].get("gpu", {}).get("total_bytes")
    if limit:
        draw_memory_limit(axes, limit / 1e9)
    make_log(axes)
    axes.set_ylabel("GB")
    grey: dict[str, Any] = {"color": "#777777"}
    axes.plot([], [], **grey, marker="o", linestyle="none", label="peak, measured")
    axes.plot([], [], **grey, linestyle=":", label="peak, by formula")
    axes.plot([], [], **grey, linewidth=1, label="keys and values")
    axes.legend(frameon=False, fontsize=9, loc="lower right", ncols=2)


def _peak(point: Row) -> float:
    return float(point.get("peak_memory_bytes") or point.get("prefill_bytes") or 0)


def draw_memory_limit(axes: Axes, limit_gb: float) -> None:
    """Draw the memory of a device, in GB, as a line with its name."""
    axes.axhline(limit_gb, color="#AA0000", linewidth=1, linestyle="-.")
    text, place = f"memory of a device, {limit_gb:.0f} GB", (0.02, limit_gb)
    look: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, -11), "textcoords": "offset points"}
    axes.annotate(text, place, **look, fontsize=8, color="#AA0000")
