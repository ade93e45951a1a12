"""The result table: for the terminal (rich) and for documents (Markdown), from the same columns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from benchmarks.comparison.schema import BackendSummary, PairedSummary, Summary

NONE = "-"


@dataclass(frozen=True)
class Column:
    """One column; ``cell`` gets the backend's name, its closed loop, and its pairing with the reference (``None`` for itself)."""

    header: str
    cell: Callable[[str, BackendSummary, PairedSummary | None], str]


def seconds(value: float) -> str:
    """A time for people: ms below one second."""
    return NONE if value == 0 else f"{1000 * value:.3g} ms" if value < 1 else f"{value:.2f} s"


def mebibytes(value: float) -> str:
    """A size for people."""
    return NONE if value == 0 else f"{value / 2**20:.1f} MiB"


def percent(value: float | None) -> str:
    """A share for people."""
    return NONE if value is None else f"{100 * value:.0f}%"


def times(value: float | None) -> str:
    """A ratio for people."""
    return NONE if value is None else f"{value:.2f}x"


def success(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    """Success with its interval."""
    low, high = b.success_ci95
    return f"{percent(b.success_rate)} [{100 * low:.0f}, {100 * high:.0f}]"


def _prompt(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return f"{b.prompt_tokens.p50:.0f} (max {b.prompt_tokens.max})" if b.prompt_tokens.max else NONE


def _kept(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return percent(b.kept_share) if b.prompt_tokens.max else NONE


def _dropped(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    return f"{b.dropped_tokens.p50:.0f}" if b.prompt_tokens.max else NONE


COLUMNS = (
    Column("backend", lambda name, b, p: name),
    Column("episodes", lambda name, b, p: str(b.episodes)),
    Column("success [95%]", success),
    Column("SPL", lambda name, b, p: f"{b.spl:.2f}"),
    Column("replans", lambda name, b, p: f"{b.replans_mean:.1f}"),
    Column("prompt tokens", _prompt),
    Column("kept share", _kept),
    Column("tokens dropped", _dropped),
    Column("TTFT p50", lambda name, b, p: seconds(b.ttft_s.p50)),
    Column("replan p50 / p95", lambda name, b, p: f"{seconds(b.replan_s.p50)} / {seconds(b.replan_s.p95)}"),
    Column("KV p50", lambda name, b, p: mebibytes(b.kv_bytes.p50)),
    Column("paired speedup TTFT / replan", lambda name, b, p: _speedup(p)),
    Column("measured / ceiling", lambda name, b, p: _of_ceiling(p)),
)


BUDGET_COLUMN = Column("within budget (predicted)", lambda name, b, p: _budget(b))


def columns(summary: Summary) -> tuple[Column, ...]:
    """What the table shows: a column on budgets only where a backend had one."""
    return (*COLUMNS, BUDGET_COLUMN) if any(b.budget for b in summary.backends.values()) else COLUMNS


def _budget(b: BackendSummary) -> str:
    return NONE if b.budget is None else f"{percent(b.budget.within)} ({percent(b.budget.predicted)})"


def _speedup(p: PairedSummary | None) -> str:
    return NONE if p is None or p.ttft_speedup_p50 is None else f"{times(p.ttft_speedup_p50)} / {times(p.replan_speedup_p50)}"


def _of_ceiling(p: PairedSummary | None) -> str:
    return NONE if p is None or p.of_ceiling_p50 is None else f"{percent(p.of_ceiling_p50)} of {times(p.ceiling_p50)}"


def rows(summary: Summary) -> list[list[str]]:
    """The cells, one row per backend."""
    return [[c.cell(name, b, summary.paired.get(name)) for c in columns(summary)] for name, b in summary.backends.items()]


def table(summary: Summary) -> Table:
    """The table for a terminal."""
    out = Table(title=_title(summary), box=box.SIMPLE_HEAD, title_justify="left", caption=_legend(summary), caption_justify="left")
    for index, column in enumerate(columns(summary)):
        out.add_column(column.header, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows(summary):
        out.add_row(*row)
    return out


def environments(summary: Summary) -> Table | None:
    """Success by environment, one column per backend; ``None`` for a suite of one environment."""
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


def markdown(summary: Summary) -> str:
    """The table for a document, with what differs from the reference below it."""
    head = [column.header for column in columns(summary)]
    return (
        f"{_title(summary)}\n\n{pipes(head, rows(summary))}\n\n{_legend(summary)}\n\n"
        + "\n".join(f"- {line}" for line in differences(summary))
        + "\n"
    )


def pipes(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first stand to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def differences(summary: Summary) -> list[str]:
    """One sentence per backend on how it differs from the reference, on the same seeds."""
    return [
        f"{name} - {summary.reference}: success {points(p.success_diff, p.success_diff_ci95)}, "
        f"SPL {points(p.spl_diff, p.spl_diff_ci95)} points over {p.episodes} episodes; {p.prompts} prompts replayed"
        for name, p in summary.paired.items()
    ]


def points(value: float, interval: tuple[float, float]) -> str:
    """A difference of shares, in percentage points, with its interval."""
    return f"{100 * value:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _title(summary: Summary) -> str:
    state = "" if summary.complete else " (incomplete)"
    return f"suite {summary.suite}, run seed {summary.seed}{state}"


def _legend(summary: Summary) -> str:
    return (
        "medians over replans in the closed loop; paired speedup: median of per-prompt ratios, "
        f"{summary.reference} / backend, on the same recorded prompts"
    )
