"""``erecap calibrate``."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.model_options import parse_lengths


def calibrate(
    data: Annotated[
        list[Path] | None, typer.Option(help="Fit thresholds to these run directories (`erecap run --training-seeds`).")
    ] = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Measure how long a replan takes on this machine, for erecap?budget_ms=...")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    pruner: Annotated[Path | None, typer.Option(help="Directory of the model's pruner; the bundled one by default.")] = None,
    keeps: Annotated[str, typer.Option(help="Thresholds: keep ratios, separated by commas.")] = "0.9,0.8,0.7,0.5,0.3",
    stages: Annotated[str | None, typer.Option(help="Thresholds: prune after these layers, such as 0-5.")] = None,
    num_prompts: Annotated[int, typer.Option(help="Thresholds: recorded prompts; half of them are held out.")] = 128,
    max_length: Annotated[int, typer.Option(help="Thresholds: longest prompt in tokens.")] = 4608,
    selector: Annotated[str, typer.Option(help="Cost: the selector that scores the tokens.")] = "learned",
    dtype: Annotated[str | None, typer.Option(help="Cost: float32 or bfloat16; the machine's default otherwise.")] = None,
    device: Annotated[str | None, typer.Option(help="Cost: a torch device; the GPU by default where there is one.")] = None,
    lengths: Annotated[str, typer.Option(help="Cost: prompt lengths in tokens, separated by commas.")] = "256,512,1024,2048,4096",
    answer_tokens: Annotated[
        int, typer.Option(help="Cost: tokens of the answers that are timed; a budget covers an answer of this length.")
    ] = 16,
    rounds: Annotated[int, typer.Option(help="Cost: how often each prompt is timed under each schedule.")] = 5,
    out: Annotated[
        Path, typer.Option(help="Cost: file of the cost model. If it is not the default, give backends cost=FILE.")
    ] = Path("runs/cost.json"),
) -> None:
    """Fit thresholds to a pruner's scores (--data), or measure how long a replan takes on this machine (--cost).

    Thresholds are written to the pruner's directory, where `erecap?rule=threshold` reads them. A table shows how many tokens of
    held-out prompts they and top_k keep. The last line of stdout is one JSON object.
    """
    from benchmarks.commands.calibrate_cost import CostOptions, run_cost_calibration
    from benchmarks.commands.calibrate_thresholds import ThresholdOptions, run_threshold_calibration

    if cost == bool(data):
        raise ValueError("give either --data, to fit thresholds to recorded prompts, or --cost, to measure what a replan costs")
    if cost:
        weights = None if pruner is None else str(pruner)
        run_cost_calibration(
            CostOptions(tuple(parse_lengths(lengths)), answer_tokens, rounds, selector, model, weights, dtype, device), out
        )
    else:
        run_threshold_calibration(ThresholdOptions(tuple(data or []), model, pruner, keeps, stages, num_prompts, max_length))
