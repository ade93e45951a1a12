"""``erecap train-pruner``."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.commands.saliency import DATA_HELP
from benchmarks.output.console import plain_console
from benchmarks.output.lock import OutputLock
from benchmarks.runs.progress import StageProgress

SHOWN = ("lm", "mse", "rank", "order", "kept_share", "final_share")
FINAL_SHARE = "0.05-0.6"
"""About keep 0.69 to 0.94 at each of eight stages: mean kept shares of 0.4 to 0.81 in a model of 30 layers."""


def train_pruner_command(
    data: Annotated[list[Path], typer.Option(help=DATA_HELP)],
    saliency: Annotated[
        Path | None, typer.Option(help="File that `erecap saliency` made from the same data; required by --mse and --rank.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    stages: Annotated[
        str | None,
        typer.Option(help="Layers after which to score, such as 0-5 or 0+2+4; by default the saliency file's, if given."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="The frozen model's dtype: float32, bfloat16 or float16.")] = "float32",
    final_share: Annotated[
        str | None,
        typer.Option(
            help="What the soft masks leave of a prompt in the last layer; LOW-HIGH draws one per batch. Validation takes the"
            " lowest and the middle.",
            show_default=FINAL_SHARE,
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Instead of --final-share: keep ratio at each stage, which compounds; LOW-HIGH draws one per batch."),
    ] = None,
    inputs: Annotated[
        str,
        typer.Option(help="What scorers read: rms (hidden states divided by their root mean square), or raw (as they are)."),
    ] = "rms",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 300,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    lm: Annotated[float, typer.Option(help="Weight of the language model's loss under soft masks.")] = 1.0,
    mse: Annotated[float, typer.Option(help="Weight of the squared error to the saliency.")] = 0.0,
    rank: Annotated[float, typer.Option(help="Weight of the ranking loss against the saliency.")] = 0.0,
    temperature: Annotated[
        float,
        typer.Option(
            help="Softness of the masks. Lower it where the loss under them stays near 0: the model still reads dropped tokens."
        ),
    ] = 0.5,
    targets: Annotated[
        str,
        typer.Option(
            help="Target tokens of the language model's loss: plan (those of the plan), or all (every token up to its end)."
        ),
    ] = "plan",
    held_out: Annotated[float, typer.Option(help="Share of the episodes to validate on.")] = 0.1,
    eval_every: Annotated[int, typer.Option(help="Steps between validations; the best pruner is kept.")] = 25,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many validations without a lower loss; never by default.")
    ] = None,
    num_samples: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 256,
    max_length: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 4608,
    batch_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens of a batch, padding included; a longer text is alone in it.", show_default="--max-length"),
    ] = None,
    seed: Annotated[int, typer.Option(help="As for `erecap saliency`.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="As for `erecap saliency`.")] = False,
    out: Annotated[Path, typer.Option(help="Directory of the run. The same command continues a stopped run.")] = Path(
        "runs/pruner"
    ),
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events into the run's directory.")] = False,
    install: Annotated[bool, typer.Option(help="Make the result the bundled pruner.")] = False,
) -> None:
    """Train a pruner: one scorer per stage, on a frozen model.

    The last line of stdout is one JSON object.
    """
    if keep is not None and final_share is not None:
        raise ValueError(f"keep={keep!r} and final_share={final_share!r}: give one of --keep and --final-share")
    with OutputLock(out), StageProgress(plain_console(stderr=True)) as progress:
        progress.begin("train-pruner", steps)
        progress.advance(0, "loading the model")  # before the imports: torch alone takes seconds
        from benchmarks.recipes.pruner import PrunerRecipe, make_pruner
        from benchmarks.recipes.sequences import SequenceChoice
        from benchmarks.recipes.tensorboard import tensorboard_hook
        from erecap.models.architecture import check_config
        from erecap.models.loading import bundled_pruner_dir, load_model, read_config
        from erecap.schedule import parse_stages
        from erecap.training.config import TrainConfig
        from erecap.training.pruner_loss import PrunerLoss
        from erecap.training.ratios import Ratios
        from erecap.training.softmask import MaskConfig

        recipe = PrunerRecipe(
            SequenceChoice(tuple(data), num_samples, max_length, seed, skip_bad),
            TrainConfig(steps=steps, lr=lr, log_every=10, eval_every=eval_every, seed=seed),
            PrunerLoss(lm=lm, mse=mse, rank=rank, targets=targets),
            saliency=saliency,
            stages=None if stages is None else parse_stages(stages),
            keeps=Ratios.parse(final_share or FINAL_SHARE, "final") if keep is None else Ratios.parse(keep, "keep"),
            held_out=held_out,
            patience=patience,
            inputs=inputs,
            batch_tokens=batch_tokens,
            mask=MaskConfig(temperature=temperature),
        )
        check_config(read_config(model))
        events = tensorboard_hook(out / "tensorboard") if tensorboard else None

        def on_step(record: dict[str, Any]) -> None:
            progress.reach(record["step"], ", ".join(f"{name} {record[name]:.3f}" for name in SHOWN if name in record))
            if events is not None:
                events(record)

        records = make_pruner(load_model(model, dtype=dtype), recipe, out, on_step, progress.beat)
    if install:
        shutil.copytree(out / "pruner", bundled_pruner_dir(), dirs_exist_ok=True)
    typer.echo(
        json.dumps({"pruner": str(bundled_pruner_dir() if install else out / "pruner"), "last": records[-1] if records else None})
    )
