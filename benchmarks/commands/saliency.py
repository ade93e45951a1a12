"""``erecap saliency``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.progress import StageProgress

DATA_HELP = (
    "Run directories, shards directories of train-planner, .jsonl files (an instruction as in Dolly-15k or a chat per line), .txt "
    "files, or data sets on the hub."
)


def saliency(
    data: Annotated[list[Path], typer.Option(help=DATA_HELP)],
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    num_samples: Annotated[int, typer.Option(help="Episodes, chosen at random.")] = 256,
    max_length: Annotated[int, typer.Option(help="Longest episode in tokens.")] = 4608,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out lines of texts that are no samples, and count them.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Directory of the result; started again, it goes on from what is there.")] = Path(
        "runs/saliency"
    ),
) -> None:
    """Stage 1 of the pruner: gradient x hidden state of each plan's loss, at each prune stage of the unpruned model.

    The last line of stdout is one JSON object.
    """
    from benchmarks import pruner_recipe as recipe  # takes seconds: imports torch
    from erecap.loading import load_model

    loaded = load_model(model, dtype="float32")
    choice = recipe.Choice(tuple(data), num_samples, max_length, seed, skip_bad)
    with StageProgress(Console(stderr=True)) as progress:
        progress.begin("saliency", num_samples)
        done = 0

        def on_shard(finished: int, of: int) -> None:
            nonlocal done
            progress.advance(finished - done, f"{finished}/{of} episodes")
            done = finished

        found = recipe.make_saliency(loaded, choice, recipe.seed_schedule(loaded, 0.7), out, on_shard)
    typer.echo(json.dumps({"saliency": str(out), "episodes": len(found), "stages": list(found.stages)}))
