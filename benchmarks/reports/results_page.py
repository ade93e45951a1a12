"""The tables of finished runs inside a document: a marked block is filled with an overview and a section per run.

The block begins with ``START`` and ends with ``END``. Everything between the two lines is replaced; what stands around it stays.
The same runs give the same text, in whatever order they are named.
"""

import re
from collections.abc import Sequence

from benchmarks.comparison.finished import FinishedRun
from benchmarks.comparison.schema import BackendSummary, PairedSummary, ReplanSummary
from benchmarks.reports.format import NONE, decimals, percent, pipes, points, times
from benchmarks.reports.made_by import command_line, facts
from benchmarks.reports.replan_table import ReplanColumn, replan_columns
from benchmarks.reports.table import COLUMNS, Column, success

START = "<!-- run-results: written by `erecap results`, not by hand -->"
END = "<!-- run-results: end -->"
_BLOCK = re.compile(rf"^{re.escape(START)}\n(?:.*\n)*?{re.escape(END)}$", re.MULTILINE)
PLANS = {"subgoal": "plans of one subgoal", "task": "plans of the whole task"}
"""Horizons in words."""


def fill_page(text: str, runs: Sequence[FinishedRun]) -> str:
    """Return a document with its block filled.

    Parameters
    ----------
    text
        The document. One without a block gets it at its end; an empty one gets a title too.
    runs
        The runs, in the order of their sections.

    Raises
    ------
    ValueError
        For several blocks, or one without its end.
    """
    block = f"{START}\n\n{page(runs)}\n{END}"
    if (text.count(START), text.count(END)) == (0, 0):
        return f"{text.rstrip() or '# Results'}\n\n{block}\n"
    if (text.count(START), text.count(END)) != (1, 1) or _BLOCK.search(text) is None:
        raise ValueError(
            f"the document has {text.count(START)} lines {START} and {text.count(END)} lines {END}: it must have one of each, in "
            "this order, or none"
        )
    return _BLOCK.sub(lambda _: block, text)


def page(runs: Sequence[FinishedRun]) -> str:
    """Write the overview and the sections."""
    return "\n\n".join([_overview(runs), *(_section(run) for run in runs)]) + "\n"


# ---- the overview ----------------------------------------------------------------------------------------------------------------


def _overview(runs: Sequence[FinishedRun]) -> str:
    head = (
        "run", "plans", "episodes", "backend", "success [95%]", "- reference [95%]", "SPL", "forced", "prompt tokens p50",
        "kept share", "TTFT speedup", "replan speedup",
    )  # fmt: skip
    rows = [_overview_row(run, name, b) for run in runs for name, b in run.summary.backends.items()]
    return pipes(head, rows)


def _overview_row(run: FinishedRun, name: str, b: BackendSummary) -> list[str]:
    paired = run.summary.paired.get(name)
    return [
        f"[{run.name}](#{_anchor(run.name)})",
        run.horizon,
        str(b.episodes),
        name,
        success(name, b, paired),
        points(paired.success_diff, paired.success_diff_ci95) if paired else NONE,
        decimals(b.spl, 2),
        percent(None if b.replans is None else b.replans.forced),
        decimals(b.prompt_tokens.p50, 0),
        percent(b.kept_share),
        times(None if paired is None else paired.ttft_speedup_p50),
        times(None if paired is None else paired.replan_speedup_p50),
    ]


def _anchor(heading: str) -> str:
    """Return the anchor that a heading gets: lower case, dashes for spaces, no other punctuation."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


# ---- one section -----------------------------------------------------------------------------------------------------------------


def _prompts(name: str, b: BackendSummary, p: PairedSummary | None) -> str:
    spread = b.prompt_tokens
    return NONE if spread.p50 is None else f"{decimals(spread.p50, 0)} / {decimals(spread.p95, 0)} / {spread.max}"


_HERE = {"prompt tokens": Column("prompt tokens p50 / p95 / max", _prompts)}
"""Columns of the table of a run that are others here."""
RUN_COLUMNS = tuple(_HERE.get(column.header, column) for column in COLUMNS)


def _recovery(r: ReplanSummary) -> str:
    if r.recovery is None or r.recovery.replans_p50 is None:
        return NONE
    return f"{decimals(r.recovery.replans_p50, 0)} / {decimals(r.recovery.env_steps_p50, 0)}"


DETAILS = (
    ReplanColumn("edits mean", lambda r: decimals(None if r.reuse is None else r.reuse.distance_mean, 1)),
    ReplanColumn("reused words", lambda r: percent(None if r.reuse is None else r.reuse.words_mean)),
    ReplanColumn("recovery plans / steps", _recovery),
    ReplanColumn("last prompt", lambda r: decimals(r.last_prompt_p50, 0)),
    ReplanColumn("over 8,000", lambda r: percent(r.last_prompt_long)),
    ReplanColumn("forbidden", lambda r: str(r.forbidden)),
)
"""Columns about replanning that only this page has."""


def _section(run: FinishedRun) -> str:
    return "\n\n".join(part for part in (f"### {run.name}", _about(run), _figures(run), _replanning(run), _made(run)) if part)


def _about(run: FinishedRun) -> str:
    episodes = max((b.episodes for b in run.summary.backends.values()), default=0)
    clock = f"{run.clock:g} environment steps pass per second of thinking, " if run.clock else ""
    return (
        f"Suite `{run.summary.suite}`, {PLANS[run.horizon]}, {clock}{episodes} episodes per backend (run seed {run.summary.seed})."
    )


def _figures(run: FinishedRun) -> str:
    rows = [[c.cell(name, b, run.summary.paired.get(name)) for c in RUN_COLUMNS] for name, b in run.summary.backends.items()]
    return pipes([column.header for column in RUN_COLUMNS], rows)


def _replanning(run: FinishedRun) -> str:
    figures = {name: b.replans for name, b in run.summary.backends.items() if b.replans is not None}
    if not figures:
        return "No figures about replanning: it was summed up before there were any, or its records do not hold the plans."
    columns = (*replan_columns(list(figures.values())), *DETAILS)
    rows = [[name, *(column.cell(r) for column in columns)] for name, r in figures.items()]
    return pipes(["replanning", *(column.header for column in columns)], rows)


def _made(run: FinishedRun) -> str:
    return "\n".join([f"- `{command_line(run.config)}`", *(f"- {fact}" for fact in facts(run.config))])
