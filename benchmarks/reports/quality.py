"""The report of `erecap bench-quality`: one table, in the terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.reports.format import pipes

TABLE_FILE = "quality.md"
_HEAD = ("selector", "keep", "kept share", "final share", "perplexity", "vs unpruned", "needles", "same tokens")

Figures = Mapping[str, Any]
"""The figures of one row, by the names of ``QualityRow``, with ``perplexity``, ``needles_found`` and ``needles``."""


def table_rows(rows: Sequence[Figures]) -> list[tuple[str, ...]]:
    """Write one row of text per row of figures: unpruned first, then by keep ratio, largest first."""
    ordered = sorted(rows, key=lambda row: -row["keep"])
    full = next((row["perplexity"] for row in rows if row["keep"] == 1.0), None)
    return [_row(row, full) for row in ordered]


def _row(row: Figures, unpruned: float | None) -> tuple[str, ...]:
    change = "-" if unpruned is None or row["keep"] == 1.0 else f"{100 * (row['perplexity'] / unpruned - 1):+.1f}%"
    return (
        row["selector"] + (f" ({row['pruner'][:6]})" if row["pruner"] else ""),
        f"{row['keep']:g}",
        f"{100 * row['kept_share']:.1f}%",
        f"{100 * row['final_share']:.1f}%",
        f"{row['perplexity']:.2f}",
        change,
        f"{row['needles_found']} of {row['needles']}" if row["needles"] else "-",
        f"{100 * row['agreement']:.0f}%",
    )


def caption(setting: Mapping[str, Any], share: float) -> str:
    """Say in words what was measured on what; ``share`` is that of a text whose perplexity is taken."""
    files = ", ".join(setting["files"])
    return (
        f"{setting['model']}, {setting['dtype']}, on {setting['device']}; {setting['texts']} texts of {files} "
        f"(prompts of {setting['prompt_tokens']:.0f} tokens on average). Perplexity: of the last {share:.0%} of each text, "
        f"{setting['answer_tokens']} tokens in all, given what pruning leaves of the rest. Needles: numbers hidden in the "
        f"text, found in the greedy answer. Same tokens: of {setting['max_new_tokens']} greedy tokens after a text, those that "
        "equal the unpruned model's. Shares are those of the texts' prompts, with the tokens that the schedule always keeps"
    )


def rich_table(rows: Sequence[Figures], words: str) -> Table:
    """Make the table for the terminal; a line between one keep ratio and the next."""
    out = Table(title="quality under pruning", caption=words, box=box.SIMPLE_HEAD)
    out.title_justify = out.caption_justify = "left"
    for index, header in enumerate(_HEAD):
        out.add_column(header, justify="left" if index == 0 else "right")
    cells = table_rows(rows)
    for index, row in enumerate(cells):
        out.add_row(*row, end_section=index + 1 < len(cells) and cells[index + 1][1] != row[1])
    return out


def markdown(rows: Sequence[Figures], words: str) -> str:
    """Write the table as Markdown."""
    return f"{words}.\n\n{pipes(_HEAD, table_rows(rows))}\n"
