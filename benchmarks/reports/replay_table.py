"""The table of a paired replay of whole episodes: for the terminal (rich) and for documents (Markdown), from the same columns."""

from rich.table import Table

from benchmarks.comparison.schema import Summary
from benchmarks.reports.cells import markdown_table, terminal_table
from benchmarks.reports.format import decimals, per_thousand, percent, seconds

HEAD = (
    "paired replay",
    "prompts",
    "tokens reused",
    "TTFT p50",
    "answer p50 / p95",
    "forward passes",
    "TTFT growth",
    "while acting",
)
LEGEND = (
    "whole recorded episodes, each prompt after its predecessors; tokens reused: median share of a prompt that was in the cache of "
    "earlier ones; forward passes: median per answer; growth: least squares over prompts; while acting: taking in "
    "the history before the replan, in no latency"
)


def replay_cells(summary: Summary) -> list[list[str]]:
    """Return the header and one row per backend; empty where no backend reused tokens, for then speedups say all."""
    if not any(r.reused_share_p50 for r in summary.replay.values()):
        return []
    rows = [
        [
            name,
            str(r.prompts),
            percent(r.reused_share_p50),
            seconds(r.ttft_s.p50),
            f"{seconds(r.total_s.p50)} / {seconds(r.total_s.p95)}",
            decimals(r.forward_passes_p50, 0),
            per_thousand(r.ttft_growth_s),
            seconds(r.observe_s_p50),
        ]
        for name, r in summary.replay.items()
    ]
    return [list(HEAD), *rows]


def replay_table(summary: Summary) -> Table | None:
    """Make the table for a terminal; ``None`` where no backend reused tokens."""
    return terminal_table(replay_cells(summary), LEGEND)


def replay_markdown(summary: Summary) -> str:
    """Write the table for a document; empty where no backend reused tokens."""
    return markdown_table(replay_cells(summary), LEGEND)
