"""``erecap calibrate --cost``: measure how long a replan takes on this machine.

This module imports torch, so ``calibrate`` imports it inside its function.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import typer
from rich import box
from rich.table import Table

from benchmarks.commands.model_options import load_with_pruner
from benchmarks.micro.cost_calibration import CostCalibration, Workload, calibrate_cost
from benchmarks.micro.timing import WARM_UP_ROUNDS
from benchmarks.output.console import plain_console, result_console
from benchmarks.reports.format import percent, seconds
from benchmarks.runs.progress import StageProgress
from erecap.calibration.cost_fit import relative_error


@dataclass(frozen=True)
class CostOptions:
    """The options of ``erecap calibrate --cost``.

    Attributes
    ----------
    lengths
        Prompt lengths in tokens.
    answer_tokens
        Length of the answers in tokens.
    rounds
        Number of times that each prompt is timed under each schedule.
    selector
        Name of the selector.
    model, pruner
        Directory or hub id of the model, and directory of the pruner; the bundled ones by default.
    dtype, device
        Names of torch's dtype and device; ``None`` takes the default of the machine.
    """

    lengths: tuple[int, ...]
    answer_tokens: int
    rounds: int
    selector: str
    model: str | None = None
    pruner: str | None = None
    dtype: str | None = None
    device: str | None = None


def run_cost_calibration(options: CostOptions, out: Path) -> None:
    """Measure a cost model, save it to ``out`` and print it."""
    workload = Workload(options.lengths, options.answer_tokens, options.rounds)
    loaded, scorer = load_with_pruner(options.selector, options.model, options.pruner, options.dtype, options.device)
    with StageProgress(plain_console(stderr=True)) as progress:
        progress.begin("calibrate --cost", WARM_UP_ROUNDS + options.rounds)
        done = calibrate_cost(loaded, workload, options.selector, scorer, progress.advance)
    done.model.save(out)
    result_console().print(_table(done))
    made = done.model
    errors = {"error_p50": made.error_p50, "error_max": made.error_max, "late_p90": made.late_p90}
    typer.echo(json.dumps({"cost": str(out), **errors, "answer_tokens": options.answer_tokens}))


def _table(done: CostCalibration) -> Table:
    """Make a table of measured and predicted seconds at every point."""
    made = done.model
    out = Table(
        title=f"replan of {made.setting.describe()}; answers of {made.answer_tokens} tokens",
        caption=f"held out from the fit: median error {percent(made.error_p50)}, worst {percent(made.error_max)}; "
        f"9 of 10 answers took at most {made.late_p90:.2f} times what was predicted",
        box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left",
    )  # fmt: skip
    for header in ("tokens", "schedule", "used for", "TTFT", "measured", "predicted", "error"):
        out.add_column(header, justify="right")
    for point, m in sorted(done.measured.items(), key=lambda item: item[0].tokens):
        predicted, use = made.replan_s(m.layer_tokens), "check" if point.held_out else "fit"
        error = f"{100 * relative_error(made, m):+.1f}%"
        out.add_row(str(point.tokens), str(point.schedule), use, seconds(m.first_s), seconds(m.replan_s), seconds(predicted), error)
    return out
