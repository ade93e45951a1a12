"""``erecap train-pruner``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.progress import StageProgress


def train_pruner(
    data: Annotated[list[Path], typer.Option(help="The data that `erecap saliency` was given.")],
    saliency: Annotated[Path, typer.Option(help="Its result.")] = Path("runs/saliency"),
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    keep: Annotated[float, typer.Option(help="Keep ratio of the soft masks, a share of the current length at each stage.")] = 0.7,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 400,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    lm: Annotated[float, typer.Option(help="Weight of the language model's loss.")] = 1.0,
    mse: Annotated[float, typer.Option(help="Weight of the squared error to the saliency.")] = 1.0,
    rank: Annotated[float, typer.Option(help="Weight of the ranking loss.")] = 1.0,
    num_samples: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 256,
    max_length: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 4608,
    seed: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="As for `erecap saliency`.")] = False,
    out: Annotated[Path, typer.Option(help="Directory of the run; started again, it goes on from its checkpoint.")] = Path(
        "runs/pruner"
    ),
    install: Annotated[bool, typer.Option(help="Make the result the bundled pruner.")] = False,
) -> None:
    """Stage 2 of the pruner: train one scorer per stage on a frozen model. The last line of stdout is one JSON object."""
    import shutil

    from benchmarks import pruner_recipe as recipe  # takes seconds: imports torch
    from erecap.loading import bundled_pruner_dir, load_model
    from erecap.training.planner import TrainConfig
    from erecap.training.pruner_loss import PrunerLoss

    loaded = load_model(model, dtype="float32")
    choice = recipe.Choice(tuple(data), num_samples, max_length, seed, skip_bad)
    config = TrainConfig(steps=steps, lr=lr, log_every=10, seed=seed)
    with StageProgress(Console(stderr=True)) as progress:
        progress.begin("train-pruner", steps)
        done = 0

        def on_step(record: dict[str, Any]) -> None:
            nonlocal done
            names = ("lm", "mse", "rank", "kept_share")
            progress.advance(record["step"] - done, ", ".join(f"{name} {record[name]:.3f}" for name in names if name in record))
            done = record["step"]

        schedule, weights = recipe.seed_schedule(loaded, keep), PrunerLoss(lm=lm, mse=mse, rank=rank)
        records = recipe.make_pruner(loaded, choice, schedule, saliency, config, weights, out, on_step)
    if install:
        shutil.copytree(out / "pruner", bundled_pruner_dir(), dirs_exist_ok=True)
    typer.echo(
        json.dumps({"pruner": str(bundled_pruner_dir() if install else out / "pruner"), "last": records[-1] if records else None})
    )
