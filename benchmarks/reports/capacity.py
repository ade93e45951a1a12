"""The report of ``erecap capacity``: a table, and a plot of the 95th percentile of latency against the number of agents."""

from pathlib import Path
from textwrap import fill

from rich.table import Table

from benchmarks.comparison.capacity import CAPACITY_FILE, BackendCapacity, CapacityReport
from benchmarks.output.files import write_atomically
from benchmarks.reports.cells import markdown_table, terminal_table
from benchmarks.reports.format import percent, seconds, times

TABLE_FILE, PLOT_FILE = "capacity.md", "capacity.png"
_HIGHEST = 100
"""The plot ends at this many times the limit."""
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size(value: float) -> str:
    """Format a size given in bytes, in decimal units as ``--kv-budget`` has them."""
    unit, factor = next(((unit, factor) for unit, factor in _UNITS if value >= factor), ("B", 1))
    return f"{value / factor:.3g} {unit}"


def capacity_cells(report: CapacityReport) -> list[list[str]]:
    """Return the header and one row per backend."""
    head = [
        "backend", "KV per agent", "agents by memory", f"agents at p95 <= {report.p95_limit_s:g} s", "ratio", "bound by",
        "replans/s", "latency p50 / p95", "prompts a batch", "busy", "extend", "rebuild",
    ]  # fmt: skip
    return [head, *(_cells(one, report.backends[0]) for one in report.backends)]


def _cells(one: BackendCapacity, first: BackendCapacity) -> list[str]:
    at = one.at
    return [
        one.backend,
        size(one.kv_bytes),
        str(one.agents_by_memory),
        f"at least {one.agents}" if one.bound_by == "nothing" else str(one.agents),
        times(one.agents / first.agents if first.agents else None),
        one.bound_by,
        f"{at.replans_per_s:.3g}",
        f"{seconds(at.p50_s)} / {seconds(at.p95_s)}",
        f"{at.rows_mean:.1f}",
        percent(at.busy_share),
        seconds(one.extend_s),
        seconds(one.rebuild_s),
    ]


def legend(report: CapacityReport) -> str:
    """Say what was modelled, by which prices, and what the columns are."""
    return (
        f"MODELLED, not measured{'' if report.complete else ' (unfinished)'}. {report.work}. "
        f"One server with {size(report.kv_budget_bytes)} for keys and values, which answers "
        f"up to {report.most_rows} waiting prompts together. Cost model: {report.cost} ({report.basis}). "
        "Figures right of `bound by` are those of that many agents. bound by: what one more agent lacks; extend: taking in the new "
        "tokens of a replan; rebuild: the same for an evicted session; seed of the simulation: "
        f"{report.seed}"
    )


def capacity_table(report: CapacityReport) -> Table | None:
    """Make the table for a terminal."""
    return terminal_table(capacity_cells(report), legend(report))


def write_capacity(report: CapacityReport, out: Path) -> list[Path]:
    """Write ``capacity.json``, ``capacity.md`` and ``capacity.png`` into ``out``, and return their paths."""
    write_atomically(out / CAPACITY_FILE, report.model_dump_json(indent=2) + "\n")
    write_atomically(out / TABLE_FILE, markdown_table(capacity_cells(report), legend(report)))
    write_atomically(out / PLOT_FILE, capacity_plot(report))
    return [out / name for name in (CAPACITY_FILE, TABLE_FILE, PLOT_FILE)]


def capacity_plot(report: CapacityReport) -> bytes:
    """Draw the 95th percentile of latency against the number of agents as a PNG: one line per backend, the limit dashed."""
    from matplotlib.figure import Figure  # takes a second to import
    from matplotlib.ticker import FuncFormatter

    from benchmarks.reports.plots import png, style

    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, one in enumerate(report.backends):
        points = [(point.agents, point.p95_s) for point in one.curve]
        look = style(number) | {"markersize": 4, "linewidth": 1.6}
        axes.plot([x for x, _ in points], [y for _, y in points], **look, label=f"{one.backend}: {one.agents} agents")
    axes.axhline(report.p95_limit_s, color="0.4", linewidth=1, linestyle="--", label=f"limit {report.p95_limit_s:g} s")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(top=min(axes.get_ylim()[1], _HIGHEST * report.p95_limit_s))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("agents on one server")
    axes.set_ylabel("p95 replan latency (s)")
    axes.set_title(f"MODELLED: {report.cost}", loc="left", fontsize=9, wrap=True)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower left", frameon=False, fontsize=9, alignment="left",
        title=fill(f"{report.work}; {size(report.kv_budget_bytes)} for keys and values", 120), title_fontsize=8,
    )  # fmt: skip
    return png(figure)
