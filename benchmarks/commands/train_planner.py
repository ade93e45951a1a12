"""``erecap train-planner``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.output.console import plain_console
from benchmarks.output.lock import OutputLock
from benchmarks.recipes.planner.config import Recipe
from benchmarks.runs.progress import StageProgress


def train_planner_command(
    out: Annotated[Path, typer.Option(help="Directory of the run. The same command continues a stopped run.")] = Path(
        "runs/planner"
    ),
    recipe: Annotated[
        Path | None, typer.Option(help="JSON file with the fields of the recipe that differ from the default.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that play episodes.")] = 2,
    evaluate: Annotated[
        int | None, typer.Option(help="Held-out episodes per suite; the recipe's number by default, 0 for none.")
    ] = None,
    install: Annotated[
        bool, typer.Option(help="Make the result the bundled planner, or another bundled one where the recipe has a name.")
    ] = False,
) -> None:
    """Train a planner from scratch: expert episodes, tokenizer, behaviour cloning, DAgger, evaluation, model card.

    The default recipe takes about three hours on 2 cores. `tools/planner_one_gpu.json` trains on ten times as many tokens in ten
    minutes of one GPU, besides playing, `tools/planner_textworld.json` makes one for the games of TextWorld-Express. The last line
    of stdout is one JSON object.
    """
    from benchmarks.recipes.planner.pipeline import run_recipe

    fields: dict[str, Any] = json.loads(recipe.read_text()) if recipe is not None else {}
    chosen = Recipe(**fields)
    episodes = chosen.held_out_episodes if evaluate is None else evaluate
    with OutputLock(out), StageProgress(plain_console(stderr=True)) as progress:
        result = run_recipe(chosen, out, workers, episodes, install, progress)
    typer.echo(json.dumps(result))
