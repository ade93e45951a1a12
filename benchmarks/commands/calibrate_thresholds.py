"""``erecap calibrate --data``: fit thresholds that keep as many tokens as a keep ratio does.

This module imports torch, so ``calibrate`` imports it inside its function.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import typer
from rich import box
from rich.table import Table

from benchmarks.output.console import plain_console, result_console
from benchmarks.recipes.thresholds import KeptShares, PromptChoice, ThresholdFitting, choose_prompts
from benchmarks.runs.progress import StageProgress
from erecap.calibration.thresholds import CALIBRATION_FILE, add_fits
from erecap.models.loading import bundled_pruner_dir, load_model, load_pruner
from erecap.models.tokenization import ChatTokenizer
from erecap.schedule import PruneSchedule


@dataclass(frozen=True)
class ThresholdOptions:
    """The options of ``erecap calibrate --data``.

    Attributes
    ----------
    data
        Run directories.
    model, pruner
        Directory or hub id of the model, and directory of the pruner; the bundled ones by default.
    keeps
        Keep ratios, separated by commas.
    stages
        Layers after which to prune, such as ``0-5``; the default stages if not given.
    num_prompts
        Number of recorded prompts; half of them are held out.
    max_length
        Longest prompt in tokens.
    """

    data: tuple[Path, ...]
    model: str | None
    pruner: Path | None
    keeps: str
    stages: str | None
    num_prompts: int
    max_length: int


def run_threshold_calibration(options: ThresholdOptions) -> None:
    """Fit thresholds, save them in the pruner's directory, and print how many tokens they keep."""
    ratios = _ratios(options.keeps)
    if options.model is not None and options.pruner is None:
        raise ValueError(f"model={options.model!r} needs a pruner of its own: give --pruner DIR")
    loaded, directory = load_model(options.model, dtype="float32"), options.pruner or bundled_pruner_dir()
    scorers, layers = load_pruner(directory, loaded), loaded.model.config.num_hidden_layers
    schedules = [PruneSchedule.of_stages(options.stages, layers, keep) for keep in ratios]
    choice = PromptChoice(options.data, options.num_prompts, options.max_length)
    prompts = choose_prompts(choice, ChatTokenizer(loaded.tokenizer))
    with StageProgress(plain_console(stderr=True)) as progress:
        fitting = ThresholdFitting(loaded, scorers, prompts, progress)
        fitted = [fitting.run(schedule) for schedule in schedules]
    add_fits(directory, [fit for fit, _ in fitted])
    shares = {keep: share for keep, (_, share) in zip(ratios, fitted, strict=True)}
    result_console().print(_table(shares, len(prompts.held_out)))
    last = {
        "calibration": str(directory / CALIBRATION_FILE),
        "fit_prompts": len(prompts.fit),
        "held_out_prompts": len(prompts.held_out),
        "kept_share": {str(keep): vars(share) for keep, share in shares.items()},
    }
    typer.echo(json.dumps(last))


def _ratios(text: str) -> list[float]:
    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"keeps={text!r} must be numbers separated by commas: such as 0.9,0.7") from error
    if len(set(ratios)) < len(ratios):
        raise ValueError(f"keeps={text!r} names a ratio twice: give each once")
    return ratios


def _table(shares: dict[float, KeptShares], prompts: int) -> Table:
    title = f"tokens kept, mean over layers, {prompts} held-out prompts"
    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for header in ("keep", "top_k", "threshold", "10th to 90th percentile over prompts"):
        out.add_column(header, justify="right")
    for keep, s in shares.items():
        spread = f"{100 * s.threshold_p10:.1f} - {100 * s.threshold_p90:.1f}%"
        out.add_row(str(keep), f"{100 * s.top_k:.1f}%", f"{100 * s.threshold:.1f}%", spread)
    return out
