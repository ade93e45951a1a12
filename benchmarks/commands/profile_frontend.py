"""What ``erecap profile`` adds to the measurements: a progress bar, plots, a check of the bundled planner, and subcommands.

This module imports torch, so ``profile`` and ``doctor`` import it inside their functions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents import AgentConfig, EpisodeJob, run_episode
from agents.records import PlannerCall
from benchmarks.backends.registry import BackendFactory
from benchmarks.commands.profile_report import run_report
from benchmarks.commands.profile_tables import run_tables
from benchmarks.output.progress import make_progress
from erecap.models.loading import ModelNotFoundError
from erecap.profiling.cli import main
from erecap.profiling.doctor import Check
from erecap.profiling.frontend import Frontend, Subcommand

PLANNER_SPEC, PLANNER_ENV, PLANNER_SEED = "erecap?keep=0.7", "ERecap/HouseholdSmall-v0", 1_000_000
PLANS = 3
"""Replans of the check. Everything in the prompt of the first one is protected."""

SUBCOMMANDS = {
    "report": Subcommand("Draw the comprehensive figures of result files, and write one page with all of them.", run_report),
    "tables": Subcommand("Write the tables of result files into the documents that name them.", run_tables),
}
"""Subcommands of ``erecap profile`` that ``python -m erecap.profiling`` does not have."""


def run_profile(words: Sequence[str]) -> int:
    """Run ``erecap profile`` with the words after it and return the exit code."""
    frontend = Frontend(
        prog="erecap profile",
        progress=make_progress(),
        plot=_plot,
        checks=(check_planner,),
        subcommands=SUBCOMMANDS,
        preload=("benchmarks.cli",),
    )
    return main(words, frontend)


def _plot(content: Mapping[str, Any], result: Path) -> Path | None:
    from benchmarks.reports.profile_plots import write_profile_plot  # matplotlib takes a second to import

    return write_profile_plot(content, result)


def check_planner() -> list[Check]:
    """Load the bundled planner with its pruner, and let it plan in a household until a prompt is long enough to be pruned."""
    remedy = "install erecap anew: pip install --force-reinstall erecap, or make clean setup"
    try:
        calls = _one_plan()
    except (ModelNotFoundError, ValueError, OSError) as error:
        return [Check("bundled planner", "error", f"it does not load: {error}", remedy)]
    made, wrong = calls[-1].generation, [call.parse_error for call in calls if call.parse_error is not None]
    dropped = f"{made.dropped_tokens} of {made.prompt_tokens} tokens dropped"
    found = f"{len(calls)} plans in {PLANNER_ENV}, at the last {dropped}: {made.text!r}"
    if wrong or made.dropped_tokens == 0:
        return [Check("bundled planner", "error", f"{found}; {wrong[0] if wrong else 'nothing was pruned'}", remedy)]
    return [Check("bundled planner", "ok", found)]


def _one_plan() -> list[PlannerCall]:
    calls: list[PlannerCall] = []

    def collect(record: object) -> None:
        if isinstance(record, PlannerCall):
            calls.append(record)

    job = EpisodeJob(PLANNER_SPEC, PLANNER_ENV, seed=PLANNER_SEED)
    run_episode(job, BackendFactory()(PLANNER_SPEC), AgentConfig(max_replans=PLANS), collect)
    return calls
