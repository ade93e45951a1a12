"""``erecap calibrate --data``: thresholds that keep as much as a keep ratio does."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.output.console import result_console
from benchmarks.runs.progress import StageProgress

if TYPE_CHECKING:
    from benchmarks.recipes.thresholds import KeptShares


def calibrate_thresholds(
    data: list[Path], model: str | None, pruner: Path | None, keeps: str, stages: str | None, num_prompts: int, max_length: int
) -> None:
    """Fit, save and show thresholds."""
    from benchmarks.recipes import thresholds as recipe  # takes seconds: imports torch
    from erecap.calibration.thresholds import CALIBRATION_FILE, add_fits
    from erecap.models.loading import bundled_pruner_dir, load_model, load_pruner
    from erecap.models.tokenization import ChatTokenizer
    from erecap.schedule.schedule import PruneSchedule

    ratios = _ratios(keeps)
    if model is not None and pruner is None:
        raise ValueError(f"model={model!r} needs a pruner of its own: give --pruner DIR")
    loaded, directory = load_model(model, dtype="float32"), pruner or bundled_pruner_dir()
    scorers = load_pruner(directory, loaded)
    schedules = [PruneSchedule.of_stages(stages, loaded.model.config.num_hidden_layers, keep) for keep in ratios]
    prompts = recipe.choose_prompts(recipe.Choice(tuple(data), num_prompts, max_length), ChatTokenizer(loaded.tokenizer))
    with StageProgress(Console(stderr=True)) as progress:
        fitted = [recipe.fit(loaded, scorers, schedule, prompts, progress) for schedule in schedules]
    add_fits(directory, [fit for fit, _ in fitted])
    shares = {keep: share for keep, (_, share) in zip(ratios, fitted, strict=True)}
    result_console().print(_table(shares, len(prompts.held_out)))
    typer.echo(
        json.dumps(
            {
                "calibration": str(directory / CALIBRATION_FILE),
                "fit_prompts": len(prompts.fit),
                "held_out_prompts": len(prompts.held_out),
                "kept_share": {str(keep): vars(share) for keep, share in shares.items()},
            }
        )
    )


def _ratios(text: str) -> list[float]:
    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"keeps={text!r} must be numbers separated by commas: such as 0.9,0.7") from error
    if len(set(ratios)) < len(ratios):
        raise ValueError(f"keeps={text!r} names a ratio twice: give each once")
    return ratios


def _table(shares: "dict[float, KeptShares]", prompts: int) -> Table:
    title = f"tokens kept, mean over layers, {prompts} held-out prompts"
    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for header in ("keep", "top_k", "threshold", "10th to 90th percentile over prompts"):
        out.add_column(header, justify="right")
    for keep, s in shares.items():
        spread = f"{100 * s.threshold_p10:.1f} - {100 * s.threshold_p90:.1f}%"
        out.add_row(str(keep), f"{100 * s.top_k:.1f}%", f"{100 * s.threshold:.1f}%", spread)
    return out
