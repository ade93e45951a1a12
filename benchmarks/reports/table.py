"""The result table of a comparison: for the terminal (rich) and for documents (Markdown), from the same columns."""

from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.table import Table

from benchmarks.comparison.schema import BackendSummary, PairedSummary, Summary
from benchmarks.reports.format import NONE, decimals, mebibytes, percent, pipes, points, seconds, times
from benchmarks.reports.replan_table import replan_markdown
from benchmarks.reports.replay_table import replay_markdown
from benchmarks.reports.session_table import session_markdown


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes
    ----------
    header : str
        Its title.
    cell : callable
        Makes the text of a cell from the backend's spec string, its closed-loop summary, and its comparison with the reference.
        The comparison is ``None`` for the reference itself.
    """

    header: str
    cell: Callable[[str, BackendSummary, PairedSummary | None], str]


def success(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    """Format a success rate with its interval. The parameters are those of ``Column.cell``."""
    low, high = b.success_ci95
    return f"{percent(b.success_rate)} [{100 * low:.0f}, {100 * high:.0f}]"


def _prompt(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return f"{decimals(b.prompt_tokens.p50, 0)} (max {b.prompt_tokens.max})" if b.prompt_tokens.max else NONE


def _kept(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return percent(b.kept_share) if b.prompt_tokens.max else NONE


def _final(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return percent(b.final_share) if b.prompt_tokens.max else NONE


def _budget(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return NONE if b.budget is None else f"{percent(b.budget.within)} ({percent(b.budget.predicted)})"


def thinking(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    """Format the share of steps that passed while the planner thought. The parameters are those of ``Column.cell``."""
    return NONE if b.clock is None else percent(b.clock.steps_share)


def _wait(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return NONE if b.early is None else f"{seconds(b.early.wait_s.p50)} / {seconds(b.early.wait_s.p95)}"


def _speedup(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return NONE if p is None or p.ttft_speedup_p50 is None else f"{times(p.ttft_speedup_p50)} / {times(p.replan_speedup_p50)}"


def _of_ceiling(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return NONE if p is None or p.of_ceiling_p50 is None else f"{percent(p.of_ceiling_p50)} of {times(p.ceiling_p50)}"


COLUMNS = (
    Column("backend", lambda name, b, p: name),
    Column("episodes", lambda name, b, p: str(b.episodes)),
    Column("success [95%]", success),
    Column("SPL", lambda name, b, p: decimals(b.spl, 2)),
    Column("replans", lambda name, b, p: f"{b.replans_mean:.1f}"),
    Column("prompt tokens", _prompt),
    Column("kept share", _kept),
    Column("final share", _final),
    Column("TTFT p50", lambda name, b, p: seconds(b.ttft_s.p50)),
    Column("replan p50 / p95", lambda name, b, p: f"{seconds(b.replan_s.p50)} / {seconds(b.replan_s.p95)}"),
    Column("KV p50", lambda name, b, p: mebibytes(b.kv_bytes.p50)),
    Column("paired speedup TTFT / replan", _speedup),
    Column("measured / ceiling", _of_ceiling),
)
_BUDGET_COLUMN = Column("within budget (predicted)", _budget)
_EARLY_COLUMN = Column("wait before first skill p50 / p95", _wait)
_CLOCK_COLUMN = Column("steps spent thinking", thinking)


def _columns(summary: Summary) -> tuple[Column, ...]:
    """Return the columns of the table: those of budgets, of the clock and of plans begun early only where there are any."""
    shown = summary.backends.values()
    budget = (_BUDGET_COLUMN,) if any(b.budget for b in shown) else ()
    clock = (_CLOCK_COLUMN,) if any(b.clock for b in shown) else ()
    return (*COLUMNS, *budget, *clock, *((_EARLY_COLUMN,) if any(b.early for b in shown) else ()))


def _cells(summary: Summary) -> list[list[str]]:
    """Return the text of all cells, one row per backend."""
    return [[c.cell(name, b, summary.paired.get(name)) for c in _columns(summary)] for name, b in summary.backends.items()]


def summary_table(summary: Summary) -> Table:
    """Make the table for a terminal."""
    out = Table(title=_title(summary), box=box.SIMPLE_HEAD, title_justify="left", caption=_legend(summary), caption_justify="left")
    for index, column in enumerate(_columns(summary)):
        out.add_column(column.header, justify="left" if index == 0 else "right", overflow="fold")
    for row in _cells(summary):
        out.add_row(*row)
    return out


def environments_table(summary: Summary) -> Table | None:
    """Make the table of success by environment, one column per backend; ``None`` for a suite of one environment."""
    names = sorted({env for b in summary.backends.values() for env in b.by_env})
    if len(names) < 2:
        return None
    out = Table("success by environment", *summary.backends, box=box.SIMPLE_HEAD)
    for env in names:
        out.add_row(env, *(_in_env(b, env) for b in summary.backends.values()))
    return out


def _in_env(b: BackendSummary, env: str) -> str:
    part = b.by_env.get(env)
    return NONE if part is None else f"{percent(part.success_rate)} of {part.episodes}"


def summary_markdown(summary: Summary) -> str:
    """Write the table for a document; below it differences from the reference, and tables of replay, replanning and sessions."""
    head = [column.header for column in _columns(summary)]
    return (
        f"{_title(summary)}\n\n{pipes(head, _cells(summary))}\n\n{_legend(summary)}\n\n"
        + "\n".join(f"- {line}" for line in paired_differences(summary))
        + "\n"
        + "".join(f"\n{table}" for write in (replay_markdown, replan_markdown, session_markdown) if (table := write(summary)))
    )


def paired_differences(summary: Summary) -> list[str]:
    """Write one sentence per backend: how it differs from the reference on the same seeds."""
    return [
        f"{name} - {summary.reference}: success {points(p.success_diff, p.success_diff_ci95)}, "
        f"SPL {points(p.spl_diff, p.spl_diff_ci95)} points over {p.episodes} episodes; {p.prompts} prompts replayed"
        for name, p in summary.paired.items()
    ]


def _title(summary: Summary) -> str:
    state = "" if summary.complete else " (incomplete)"
    return f"suite {summary.suite}, run seed {summary.seed}{state}"


def _legend(summary: Summary) -> str:
    return (
        "medians over replans in the closed loop; paired speedup: median of per-prompt ratios, "
        f"{summary.reference} / backend, on the same recorded prompts"
    )
