"""A table of cells with a legend below it: for the terminal (rich) and for documents (Markdown)."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from benchmarks.reports.format import pipes


def terminal_table(cells: Sequence[Sequence[str]], legend: str) -> Table | None:
    """Make the table for a terminal.

    Parameters
    ----------
    cells
        The header and the rows. The first column is aligned to the left, the others to the right.
    legend
        Text below the table.

    Returns
    -------
    Table or None
        The table; ``None`` without cells.
    """
    if not cells:
        return None
    out = Table(box=box.SIMPLE_HEAD, caption=legend, caption_justify="left")
    for index, header in enumerate(cells[0]):
        out.add_column(header, justify="left" if index == 0 else "right", overflow="fold")
    for row in cells[1:]:
        out.add_row(*row)
    return out


def markdown_table(cells: Sequence[Sequence[str]], legend: str) -> str:
    """Write the table for a document; empty without cells. The parameters are those of ``terminal_table``."""
    return f"{pipes(cells[0], cells[1:])}\n\n{legend}\n" if cells else ""
