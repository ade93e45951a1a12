"""``erecap saliency``: collect saliency. ``erecap saliency show`` displays it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.commands.saliency_show import show
from benchmarks.output.console import plain_console
from benchmarks.output.lock import OutputLock
from benchmarks.runs.progress import StageProgress

DATA_HELP = (
    "Run directories, shard directories of train-planner, .jsonl files (an instruction as in Dolly-15k or a chat per line), .txt "
    "files, or data sets on the hub."
)
PART_SIZE = 8
"""Number of samples in a part, which is saved when it is complete."""

saliency = typer.Typer()


@saliency.callback(invoke_without_command=True)
def collect(
    context: typer.Context,
    data: Annotated[list[Path] | None, typer.Option(help=DATA_HELP, show_default="required")] = None,
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    num_samples: Annotated[int, typer.Option(help="Number of episodes, chosen at random.")] = 256,
    max_length: Annotated[int, typer.Option(help="Longest episode in tokens; longer ones are cut after a plan.")] = 4608,
    stages: Annotated[str | None, typer.Option(help="Layers after which to compute saliency, such as 0-5 or 0+2+4.")] = None,
    dtype: Annotated[str, typer.Option(help="The model's dtype: float32, bfloat16 or float16.")] = "float32",
    credit: Annotated[
        str,
        typer.Option(
            help="Measure of what a plan needed: gradient (x hidden state), attention (from the plan), or removal (of turns)."
        ),
    ] = "gradient",
    replans: Annotated[int, typer.Option(help="Number of replans sampled per episode.")] = 4,
    horizon: Annotated[
        str, typer.Option(help="Plans that give a token saliency: all (sampled later ones), or next (the one after its turn).")
    ] = "all",
    seed: Annotated[int, typer.Option(help="Seed of the choice of episodes and replans.")] = 0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out lines that cannot be read as samples, and count them.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Result, one safetensors file. The same command continues a stopped run.")] = Path(
        "runs/saliency.safetensors"
    ),
) -> None:
    """Collect saliency: how much each token mattered to later plans, at each stage of the unpruned model.

    By default it is gradient x hidden state of the plans' loss. `erecap train-pruner --saliency` reads it.

    The last line of stdout is one JSON object.
    """
    if context.invoked_subcommand is not None:
        return
    if not data:
        raise ValueError("no data to take saliency from: give --data, such as a run directory made with `erecap run`")
    with OutputLock.of_file(out), StageProgress(plain_console(stderr=True)) as progress:
        progress.begin("saliency", num_samples)
        progress.advance(0, "loading the model")  # before the imports: torch alone takes seconds
        from benchmarks.recipes.pruner import seed_stages, warn_of_late_stages
        from benchmarks.recipes.sequences import SequenceChoice, choose_sequences
        from erecap.models.architecture import check_config
        from erecap.models.loading import load_model, read_config
        from erecap.schedule import parse_stages
        from erecap.training.saliency import SaliencySettings, collect_saliency

        check_config(read_config(model))
        loaded = load_model(model, dtype=dtype)
        layers = seed_stages(loaded) if stages is None else parse_stages(stages)
        warn_of_late_stages(loaded, layers)
        settings = SaliencySettings(layers, replans, credit=credit, horizon=horizon)
        progress.advance(0, "reading the texts")
        sequences = choose_sequences(SequenceChoice(tuple(data), num_samples, max_length, seed, skip_bad), loaded.tokenizer)
        progress.expect(len(sequences))
        progress.advance(0, f"{len(sequences)} samples of {sequences.lengths.sum()} tokens, {len(layers)} stages")

        def on_part(done: int, of: int) -> None:
            progress.reach(done, f"{done}/{of} samples")

        def on_sample(done: int, of: int) -> None:
            progress.beat(done, f"{done}/{of} samples, the latest not saved yet")

        found = collect_saliency(loaded.model, sequences, settings, out, PART_SIZE, on_part, on_sample)
    typer.echo(json.dumps({"saliency": str(out), "samples": len(found), "stages": list(found.stages), "loss": found.loss}))


saliency.command("show")(show)
