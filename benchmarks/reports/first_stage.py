"""The report of `erecap stages`: one table, in the terminal and as Markdown, and a plot of loss and agreement by first stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.comparison.metrics import bootstrap_interval
from benchmarks.output.files import write_atomically
from benchmarks.reports.format import percent, pipes, times
from erecap.first_stage.points import StagePoint, beside_floor

TABLE_FILE, PLOT_FILE = "stages.md", "stages.png"
_HEAD = (
    "selector", "first stage after", "stages", "keep", "kept share", "final share", "KV", "TTFT ceiling",
    "loss - unpruned [95%]", "same plan", "same first line", "same tokens", "holds",
)  # fmt: skip


def table_rows(points: Sequence[StagePoint], tolerance: float) -> list[tuple[str, ...]]:
    """Write one row of text per point, by selector, share (largest first) and first stage."""
    return [_row(point, tolerance) for point in points]


def _row(point: StagePoint, tolerance: float) -> tuple[str, ...]:
    low, high = point.loss_diff_ci95
    return (
        point.selector,
        f"layer {point.first}",
        point.stages,
        f"{point.keep:g}",
        f"{100 * point.kept_share:.1f}%",
        f"{100 * point.final_share:.1f}%",
        percent(point.kv_share),
        times(point.ttft_ceiling),
        f"{point.loss_diff:+.4f} [{low:+.4f}, {high:+.4f}]",
        percent(point.same_plan),
        percent(point.same_first_line),
        percent(point.same_tokens),
        "yes" if point.holds(tolerance) else "no",
    )


def caption(setting: Mapping[str, Any], unpruned_loss: float, tolerance: float) -> str:
    """Say in words what was measured on what."""
    size = f"{setting['prompts']} prompts of {setting['prompt_tokens']:.0f} tokens on average"
    return (
        f"{setting['model']}, {setting['dtype']}; {size}, from {', '.join(setting['data'])}; unpruned loss on plans "
        f"{unpruned_loss:.4f} nats per token; a schedule holds where the upper end of the interval is at most {tolerance:g}"
    )


def rich_table(points: Sequence[StagePoint], tolerance: float, words: str) -> Table:
    """Make the table for the terminal; a line between one share and the next."""
    out = Table(title="loss on plans and agreement by first stage", caption=words, box=box.SIMPLE_HEAD)
    out.title_justify = out.caption_justify = "left"
    for index, header in enumerate(_HEAD):
        out.add_column(header, justify="left" if index in (0, 2) else "right")
    for index, (point, row) in enumerate(zip(points, table_rows(points, tolerance), strict=True)):
        following = points[index + 1] if index + 1 < len(points) else point
        out.add_row(*row, end_section=(following.selector, following.share) != (point.selector, point.share))
    return out


def unreachable_lines(unreachable: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which shares cannot be reached from which first stages, one line per share."""
    by_share: dict[float, list[str]] = {}
    for one in unreachable:
        by_share.setdefault(one["share"], []).append(f"layer {one['first']} ({percent(one['nearest'])})")
    return [
        f"Kept share {percent(share)}: cannot be reached with the first stage after {', '.join(firsts)}: the nearest in brackets."
        for share, firsts in by_share.items()
    ]


def floor_lines(points: Sequence[StagePoint], floor: Sequence[StagePoint]) -> list[str]:
    """Say how much more random scores lose than a selector at the same schedule, one line per share, with paired intervals."""
    by_share: dict[float, list[str]] = {}
    for point, more in beside_floor(points, floor):
        low, high = bootstrap_interval(more)
        found = f"layer {point.first} {sum(more) / len(more):+.4f} [{low:+.4f}, {high:+.4f}]"
        by_share.setdefault(point.share, []).append(found)
    return [
        f"Kept share {percent(share)}: random scores lose more than {points[0].selector} by, with the first stage after "
        f"{'; '.join(found)}. Where that is about 0, no scorer was put to the test."
        for share, found in by_share.items()
    ]


def markdown(points: Sequence[StagePoint], tolerance: float, words: str, remarks: Sequence[str]) -> str:
    """Write the table and the remarks as Markdown."""
    return "\n\n".join([words + ".", pipes(_HEAD, table_rows(points, tolerance)), *remarks]) + "\n"


def write_plot(points: Sequence[StagePoint], tolerance: float, path: Path) -> None:
    """Plot loss and agreement of plans against the first stage: a colour per selector, a line per share."""
    from matplotlib.figure import Figure  # matplotlib takes a second to import
    from matplotlib.ticker import MaxNLocator

    from benchmarks.reports.plots import png, style

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    loss, agreement = figure.subplots(1, 2)
    selectors, shares = list(dict.fromkeys(p.selector for p in points)), sorted({p.share for p in points}, reverse=True)
    for number, selector in enumerate(selectors):
        for variant, share in enumerate(shares):
            line = sorted((p for p in points if (p.selector, p.share) == (selector, share)), key=lambda p: p.first)
            if line:
                xs, look = [p.first for p in line], style(number, variant) | {"markersize": 4.5, "linewidth": 1.6}
                low = [p.loss_diff - p.loss_diff_ci95[0] for p in line]
                high = [p.loss_diff_ci95[1] - p.loss_diff for p in line]
                name = f"{selector}, kept share {percent(share)}"
                loss.errorbar(xs, [p.loss_diff for p in line], yerr=[low, high], capsize=2, label=name, **look)
                agreement.plot(xs, [100 * p.same_plan for p in line], **look)
    loss.axhline(tolerance, color="0.5", linewidth=1, linestyle=":", label=f"tolerance {tolerance:g}")
    loss.set_yscale("symlog", linthresh=max(tolerance, 1e-3))
    loss.set_title("loss on plans - unpruned (nats per token, 95%)", loc="left", fontsize=10)
    agreement.set_title("greedy plans equal to unpruned (%)", loc="left", fontsize=10)
    agreement.set_ylim(0, 103)
    for axes in (loss, agreement):
        axes.set_xlabel("first stage after layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*loss.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    write_atomically(path, png(figure))
