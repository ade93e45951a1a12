"""The table of a paired replay of whole episodes: for the terminal (rich) and for documents (Markdown), from the same columns."""

from rich import box
from rich.table import Table

from benchmarks.comparison.schema import Summary
from benchmarks.reports.format import decimals, per_thousand, percent, pipes, seconds

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
    """Return one row per backend; empty where no backend reused tokens, for then speedups say all."""
    if not any(r.reused_share_p50 for r in summary.replay.values()):
        return []
    return [
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


def replay_table(summary: Summary) -> Table | None:
    """Make the table for a terminal; ``None`` where no backend reused tokens."""
    cells = replay_cells(summary)
    if not cells:
        return None
    out = Table(box=box.SIMPLE_HEAD, caption=LEGEND, caption_justify="left")
    for index, header in enumerate(HEAD):
        out.add_column(header, justify="left" if index == 0 else "right", overflow="fold")
    for row in cells:
        out.add_row(*row)
    return out


def replay_markdown(summary: Summary) -> str:
    """Write the table for a document; empty where no backend reused tokens."""
    cells = replay_cells(summary)
    return f"{pipes(HEAD, cells)}\n\n{LEGEND}\n" if cells else ""
