"""The report of `erecap bench-replans`: one table, in the terminal and as Markdown."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from benchmarks.comparison.fidelity import EVERY, Fidelity
from benchmarks.reports.format import percent, pipes

_HEAD = ("backend", "replans because of", "replans", "kept share", "loss rise [95%]", "same plan", "same first line")
CAPTION = (
    "loss rise: loss of the recorded plans minus the first backend's, in nats per token, with an interval over episodes; same: "
    "greedy plans, and their first lines, that are the first backend's"
)


def table_rows(found: Sequence[Fidelity]) -> list[tuple[str, ...]]:
    """Write one row of text per backend and reason."""
    return [
        (
            one.backend,
            one.reason,
            str(one.replans),
            percent(one.kept_share),
            f"{one.loss_rise:+.4f} [{one.loss_rise_ci95[0]:+.4f}, {one.loss_rise_ci95[1]:+.4f}]",
            percent(one.same_plan),
            percent(one.same_first_line),
        )
        for one in found
    ]


def rich_table(found: Sequence[Fidelity]) -> Table:
    """Make the table for the terminal, with a line between backends."""
    out = Table(title="plans at the replans of recorded episodes", caption=CAPTION, box=box.SIMPLE_HEAD)
    out.title_justify = out.caption_justify = "left"
    for index, header in enumerate(_HEAD):
        out.add_column(header, justify="left" if index < 2 else "right")
    for index, (one, row) in enumerate(zip(found, table_rows(found), strict=True)):
        last = index + 1 < len(found) and found[index + 1].reason == EVERY
        out.add_row(*row, end_section=last, style="bold" if one.reason == EVERY else None)
    return out


def markdown(found: Sequence[Fidelity]) -> str:
    """Write the table as Markdown."""
    return "\n\n".join([pipes(_HEAD, table_rows(found)), CAPTION + "."]) + "\n"
