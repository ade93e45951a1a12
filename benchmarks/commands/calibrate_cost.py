"""``erecap calibrate --cost``: what a replan costs on this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.commands.bench_prefill import load_with_pruner
from benchmarks.output.console import result_console
from benchmarks.reports.format import percent, seconds
from benchmarks.runs.progress import StageProgress

if TYPE_CHECKING:
    from benchmarks.micro.cost_calibration import Calibration


def calibrate_cost(
    model: str | None,
    selector: str,
    pruner: str | None,
    dtype: str | None,
    device: str | None,
    lengths: list[int],
    answer_tokens: int,
    rounds: int,
    out: Path,
) -> None:
    """Measure, save and show a cost model."""
    from benchmarks.micro import cost_calibration as cost_recipe  # takes seconds: imports torch
    from benchmarks.micro.timing import WARM_UP_ROUNDS

    workload = cost_recipe.Workload(tuple(lengths), answer_tokens, rounds)
    loaded, scorer = load_with_pruner(selector, model, pruner, dtype, device)
    with StageProgress(Console(stderr=True)) as progress:
        progress.begin("calibrate --cost", WARM_UP_ROUNDS + rounds)
        done = cost_recipe.calibrate_cost(loaded, workload, selector, scorer, progress.advance)
    done.model.save(out)
    result_console().print(_table(done))
    made = done.model
    facts = {"error_p50": made.error_p50, "error_max": made.error_max, "late_p90": made.late_p90, "answer_tokens": answer_tokens}
    typer.echo(json.dumps({"cost": str(out), **facts}))


def _table(done: "Calibration") -> Table:
    """Every point, measured and predicted."""
    from erecap.calibration.cost_fit import relative_error

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
