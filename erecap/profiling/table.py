"""Plain tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDEST = 48
"""Most characters of a cell; longer text is cut here and complete in the result file."""


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as text with aligned columns. A column that a row lacks stays empty."""
    if not rows:
        return "(nothing measured)"
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([str(row.get(name, ""))[:WIDEST] for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
