"""The report of a comparison at several clock rates: a table, and a plot of success and SPL against the rate."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison.clock_sweep import CLOCK_FILE, ClockPoint, ClockReport, rate_text
from benchmarks.comparison.metrics import Interval
from benchmarks.output.files import write_atomically
from benchmarks.reports.format import NONE, decimals, percent, pipes, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE_FILE, PLOT_FILE = "clock.md", "clock.png"
_HEAD = ("steps per s", "backend", "episodes", "success [95%]", "SPL [95%]", "thinking p50", "steps spent thinking", "replans")
_WAITS = "0 (waits)"
Figure = Callable[[ClockPoint], tuple[float, Interval] | None]
"""Returns a figure of a point and its interval; ``None`` where there is none."""


def write_clock(report: ClockReport, out: Path) -> list[Path]:
    """Write the report of a sweep, which may be incomplete, into its directory.

    Parameters
    ----------
    report : ClockReport
        What has been played so far.
    out : Path
        The directory.

    Returns
    -------
    list of Path
        ``clock.json``, ``clock.md`` and ``clock.png``.
    """
    write_atomically(out / CLOCK_FILE, report.model_dump_json(indent=2) + "\n")
    write_atomically(out / TABLE_FILE, clock_markdown(report))
    write_atomically(out / PLOT_FILE, clock_plot(report))
    return [out / name for name in (CLOCK_FILE, TABLE_FILE, PLOT_FILE)]


def clock_markdown(report: ClockReport) -> str:
    """Write the table, with a title and a legend."""
    return f"{_title(report)}\n\n{pipes(_HEAD, map(_cells, report.points))}\n\n{_legend(report)}\n"


def _title(report: ClockReport) -> str:
    return f"suite {report.suite}, run seed {report.seed}{'' if report.complete else ' (incomplete)'}"


def _legend(report: ClockReport) -> str:
    return (
        f"While the planner thinks, the world makes so many steps per second. Seconds of thinking: {report.source}. "
        "Steps of thinking count as steps, for the step limit and for SPL; the expert thinks for 0 s."
    )


def _cells(point: ClockPoint) -> tuple[str, ...]:
    low, high = point.success_ci95
    spl = decimals(point.spl, 2) + (f" [{point.spl_ci95[0]:.2f}, {point.spl_ci95[1]:.2f}]" if point.spl_ci95 else "")
    return (
        rate_text(point.steps_per_second) if point.steps_per_second else _WAITS,
        point.backend,
        str(point.episodes),
        f"{percent(point.success_rate)} [{100 * low:.0f}, {100 * high:.0f}]",
        spl,
        NONE if point.thinking_s_p50 is None else seconds(point.thinking_s_p50) if point.thinking_s_p50 else "0 s",
        f"{100 * point.thinking_share:.1f}%",
        f"{point.replans_mean:.1f}",
    )


def clock_plot(report: ClockReport) -> bytes:
    """Draw success and SPL against the rate as a PNG: one line per backend, 95% intervals shaded, on a logarithmic axis.

    A world that waits (rate 0) has no place on that axis. It stands left of the others, cut off by a dotted line.
    """
    from matplotlib.figure import Figure as Canvas  # takes a second to import

    from benchmarks.reports.plots import png

    canvas = Canvas(figsize=(9.6, 4.4 + 0.2 * len(report.backends)), layout="constrained")
    panels = canvas.subplots(1, 2, sharex=True)
    for axes, (label, figure) in zip(panels, _FIGURES.items(), strict=True):
        for number, backend in enumerate(report.backends):
            _draw(axes, number, [p for p in report.points if p.backend == backend], figure, _place_of_waiting(report))
        _label(axes, label, report)
    lines, names = panels[0].get_legend_handles_labels()
    canvas.legend(lines, names, loc="outside lower left", frameon=False, fontsize=9, title="95% intervals shaded", alignment="left")
    canvas.suptitle(f"{_title(report)}\nthinking: {report.source}", fontsize=8, x=0.01, ha="left", wrap=True)
    return png(canvas)


_FIGURES: dict[str, Figure] = {
    "success": lambda point: (point.success_rate, point.success_ci95),
    "SPL": lambda point: None if point.spl is None or point.spl_ci95 is None else (point.spl, point.spl_ci95),
}


def _place_of_waiting(report: ClockReport) -> float:
    """Return where rate 0 stands: half of the smallest rate."""
    return min((point.steps_per_second for point in report.points if point.steps_per_second), default=2.0) / 2


def _draw(axes: "Axes", number: int, points: list[ClockPoint], figure: Figure, waiting: float) -> None:
    from benchmarks.reports.plots import style

    found = sorted((point.steps_per_second or waiting, *shown) for point in points if (shown := figure(point)) is not None)
    if not found:
        return
    rates, look = [rate for rate, _, _ in found], style(number)
    low, high = zip(*(interval for _, _, interval in found), strict=True)
    axes.fill_between(rates, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.plot(rates, [value for _, value, _ in found], **look, markersize=4.5, linewidth=1.8, label=points[0].backend)


def _label(axes: "Axes", label: str, report: ClockReport) -> None:
    rates = sorted({point.steps_per_second for point in report.points})
    waiting = _place_of_waiting(report)
    axes.set_xscale("log")
    axes.set_xticks([rate or waiting for rate in rates], ["waits" if not rate else rate_text(rate) for rate in rates])
    axes.set_xticks([], minor=True)
    if 0.0 in rates:
        axes.axvline(waiting * 2**0.5, color="#777777", linestyle=":", linewidth=0.8)
    axes.set_xlabel("environment steps per second of thinking")
    axes.set_title(label, loc="left", fontsize=11)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
