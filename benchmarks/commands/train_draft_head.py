"""``erecap train-draft-head``."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.commands.saliency import DATA_HELP
from benchmarks.output.console import plain_console
from benchmarks.output.lock import OutputLock
from benchmarks.runs.progress import StageProgress


def train_draft_head_command(
    data: Annotated[list[Path], typer.Option(help=DATA_HELP)],
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    dtype: Annotated[str, typer.Option(help="The frozen model's dtype: float32, bfloat16 or float16.")] = "float32",
    width: Annotated[int, typer.Option(help="Width of the head's recurrent state.")] = 192,
    ahead: Annotated[int, typer.Option(help="Most tokens that it guesses at once.")] = 6,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 400,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    held_out: Annotated[float, typer.Option(help="Share of the episodes to validate on.")] = 0.1,
    eval_every: Annotated[int, typer.Option(help="Steps between validations; the best head is kept.")] = 50,
    num_samples: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 256,
    max_length: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 8192,
    batch_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens of a batch, padding included; a longer text is alone in it.", show_default="--max-length"),
    ] = None,
    seed: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="As for `erecap saliency`.")] = False,
    out: Annotated[Path, typer.Option(help="Directory of the run. The same command continues a stopped run.")] = Path(
        "runs/draft-head"
    ),
    install: Annotated[bool, typer.Option(help="Make the result the bundled draft head.")] = False,
) -> None:
    """Train a draft head, from which sessions guess tokens of an answer, on a frozen model.

    The last line of stdout is one JSON object.
    """
    with OutputLock(out), StageProgress(plain_console(stderr=True)) as progress:
        progress.begin("train-draft-head", steps)
        progress.advance(0, "loading the model")  # before the imports: torch alone takes seconds
        from benchmarks.recipes.draft_head import DraftHeadRecipe, make_draft_head
        from benchmarks.recipes.sequences import SequenceChoice
        from erecap.models.architecture import check_config
        from erecap.models.loading import bundled_draft_head_dir, load_model, read_config
        from erecap.training.config import TrainConfig

        recipe = DraftHeadRecipe(
            SequenceChoice(tuple(data), num_samples, max_length, seed, skip_bad),
            TrainConfig(steps=steps, lr=lr, log_every=10, eval_every=eval_every, seed=seed),
            width=width,
            ahead=ahead,
            held_out=held_out,
            batch_tokens=batch_tokens,
        )
        check_config(read_config(model))

        def on_step(record: dict[str, Any]) -> None:
            progress.reach(record["step"], f"loss {record['loss']:.3f}, right {record.get('right', 0.0):.1%}")

        records = make_draft_head(load_model(model, dtype=dtype), recipe, out, on_step, progress.beat)
    if install:
        shutil.copytree(out / "draft_head", bundled_draft_head_dir(), dirs_exist_ok=True)
    made = bundled_draft_head_dir() if install else out / "draft_head"
    typer.echo(json.dumps({"draft_head": str(made), "last": records[-1] if records else None}))
