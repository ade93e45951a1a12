"""Figures as text for people: times, sizes, shares, ratios, and Markdown tables."""

from collections.abc import Iterable, Sequence

NONE = "-"
"""Text for a missing figure."""


def seconds(value: float | None) -> str:
    """Format a time given in seconds, in ms below one second; ``None`` and, in old summaries, 0 stand for a missing time."""
    return NONE if not value else f"{1000 * value:.3g} ms" if value < 1 else f"{value:.2f} s"


def per_thousand(value: float | None) -> str:
    """Format a growth of latency, given in seconds per 1,000 tokens."""
    return NONE if value is None else f"{1000 * value:+.3g} ms per 1,000 tokens"


def mebibytes(value: float | None) -> str:
    """Format a size given in bytes as MiB; ``None`` and, in old summaries, 0 stand for a missing size."""
    return NONE if not value else f"{value / 2**20:.1f} MiB"


def percent(value: float | None) -> str:
    """Format a share, 0 to 1, as a percentage."""
    return NONE if value is None else f"{100 * value:.0f}%"


def times(value: float | None) -> str:
    """Format a ratio."""
    return NONE if value is None else f"{value:.2f}x"


def decimals(value: float | None, places: int) -> str:
    """Format a number with so many decimal places."""
    return NONE if value is None else f"{value:.{places}f}"


def points(value: float | None, interval: tuple[float, float] | None) -> str:
    """Format a difference of shares with its interval, in percentage points."""
    if value is None or interval is None:
        return NONE
    return f"{100 * value:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def pipes(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)
