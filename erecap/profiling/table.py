"""Plain tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDEST = 120
"""Most characters of a cell; longer text is cut here and complete in the result file."""

_LAST = "status"  # a column of text, at the end of the line


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ``rows`` as text with aligned columns. A column that a row lacks stays empty; one that all lack is left out."""
    if not rows:
        return "(nothing measured)"
    columns = columns_of(rows)
    lines = [columns, *([str(row.get(name, ""))[:WIDEST] for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(_aligned(columns, line, widths) for line in lines)


def _aligned(columns: Sequence[str], line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if name == _LAST else cell.rjust(width) for name, cell, width in zip(columns, line, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()


def flops_rate(flops_per_s: float) -> str:
    """Write a rate with its unit: GFLOP/s, or TFLOP/s where it is large."""
    large = flops_per_s >= 1e12
    return f"{flops_per_s / (1e12 if large else 1e9):.1f} {'T' if large else 'G'}FLOP/s"


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the columns in which any row has something; ``status`` comes last."""
    names = dict.fromkeys(name for row in rows for name, cell in row.items() if cell != "")
    return [*(name for name in names if name != _LAST), *(name for name in names if name == _LAST)]
