"""``erecap saliency``: collect it, or look at it with ``erecap saliency show``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.commands.saliency_show import show
from benchmarks.runs.progress import StageProgress

DATA_HELP = (
    "Run directories, shards directories of train-planner, .jsonl files (an instruction as in Dolly-15k or a chat per line), .txt "
    "files, or data sets on the hub."
)
PART_SIZE = 8

saliency = typer.Typer()


@saliency.callback(invoke_without_command=True)
def collect(
    context: typer.Context,
    data: Annotated[list[Path] | None, typer.Option(help=DATA_HELP, show_default="required")] = None,
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    num_samples: Annotated[int, typer.Option(help="Episodes, chosen at random.")] = 256,
    max_length: Annotated[int, typer.Option(help="Tokens of an episode; longer ones are cut after a plan.")] = 4608,
    stages: Annotated[
        str | None, typer.Option(help="Layers after which saliency is taken, such as 0-5 or 0+2+4; the seed's by default.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16: what the model runs in.")] = "float32",
    credit: Annotated[
        str, typer.Option(help="What a plan needed, by: gradient x hidden state, attention from the plan, or removal of steps.")
    ] = "gradient",
    replans: Annotated[int, typer.Option(help="Sampled replans of each episode.")] = 4,
    horizon: Annotated[
        str, typer.Option(help="Which plans credit a token: all sampled later ones, or next, the one after its turn.")
    ] = "all",
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out lines of texts that are no samples, and count them.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="The result, one safetensors file; started again, a run goes on from the parts beside it.")
    ] = Path("runs/saliency.safetensors"),
) -> None:
    """Stage 1 of the pruner: gradient x hidden state of each plan's loss, at each prune stage of the unpruned model.

    The last line of stdout is one JSON object.
    """
    if context.invoked_subcommand is not None:
        return
    if not data:
        raise ValueError("no data to take saliency from: give --data, such as a run directory made with `erecap run`")
    from benchmarks.recipes import pruner as recipe  # takes seconds: imports torch
    from erecap.models.loading import load_model
    from erecap.schedule import parse_stages
    from erecap.training.saliency import collect_saliency

    loaded = load_model(model, dtype=dtype)
    layers = recipe.seed_stages(loaded) if stages is None else parse_stages(stages)
    recipe.warn_of_late_stages(loaded, layers)
    sequences = recipe.choose(recipe.Choice(tuple(data), num_samples, max_length, seed, skip_bad), loaded.tokenizer)
    with StageProgress(Console(stderr=True)) as progress:
        progress.begin("saliency", len(sequences))
        done = 0

        def on_part(finished: int, of: int) -> None:
            nonlocal done
            progress.advance(finished - done, f"{finished}/{of} samples")
            done = finished

        found = collect_saliency(
            loaded.model, sequences, layers, out, replans, part_size=PART_SIZE, on_part=on_part, credit=credit, horizon=horizon
        )
    typer.echo(json.dumps({"saliency": str(out), "samples": len(found), "stages": list(found.stages), "loss": found.loss}))


saliency.command("show")(show)
