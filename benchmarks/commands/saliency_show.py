"""``erecap saliency show``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.output.console import result_console
from benchmarks.output.files import write_atomically


def show(
    file: Annotated[Path | None, typer.Argument(help="File made by `erecap saliency`; not needed with --prompt or --run.")] = None,
    sample: Annotated[int, typer.Option(help="Draw the last replan's prompt of this sample (its number in the file).")] = 0,
    prompt: Annotated[
        Path | None, typer.Option(help="Draw the prompt in this file instead: a text, or a .json with a list of chat messages.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Draw a recorded replan of this run directory instead.")] = None,
    episode: Annotated[int, typer.Option(help="With --run: number of the reference backend's episode, from 0.")] = 0,
    replan: Annotated[int, typer.Option(help="With --run: number of the replan in the episode, from 0.")] = 0,
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    pruner: Annotated[Path | None, typer.Option(help="Directory of the model's pruner; the bundled one by default.")] = None,
    keep: Annotated[float, typer.Option(help="Share of the tokens that each stage keeps.")] = 0.7,
    stages: Annotated[
        str | None, typer.Option(help="Stages in the picture, such as 1+4; the first, the middle and the last by default.")
    ] = None,
    columns: Annotated[int, typer.Option(help="Characters per line of the picture.")] = 100,
    max_tokens: Annotated[
        int, typer.Option(help="Most tokens in the picture; longer prompts are shown without their middle.")
    ] = 600,
    scored: Annotated[int, typer.Option(help="Number of samples that the pruner scores for the statistics.")] = 32,
    dtype: Annotated[str, typer.Option(help="The model's dtype: float32, bfloat16 or float16.")] = "float32",
    out: Annotated[Path, typer.Option(help="File of the picture.")] = Path("saliency.png"),
) -> None:
    """Print statistics of saliency by stage, and draw one prompt: its tokens by saliency, pruner score, and stage of their drop.

    The last line of stdout is one JSON object.
    """
    _check(file, prompt, run)
    from benchmarks.recipes.pruner import seed_stages
    from benchmarks.reports.plots import png
    from benchmarks.token_views.picture import picture
    from benchmarks.token_views.saliency_stats import saliency_statistics, statistics_table
    from benchmarks.token_views.sources import PromptSource, find_subject
    from benchmarks.token_views.view import view
    from erecap.models.loading import load_model, load_pruner
    from erecap.schedule import parse_stages
    from erecap.training.saliency_file import SaliencySet

    shown = None if stages is None else parse_stages(stages)
    loaded = load_model(model, dtype=dtype)
    found = None if file is None else SaliencySet(file, loaded.identity)
    # only the bundled planner has a default pruner
    scorer = load_pruner(pruner, loaded) if model is None or pruner is not None else None
    layers = found.stages if found is not None else scorer.stages if scorer is not None else seed_stages(loaded)
    subject = find_subject(loaded, PromptSource(sample, prompt, run, episode, replan), found, layers)
    write_atomically(out, png(picture(view(loaded, subject, scorer, keep), shown, columns, max_tokens)))
    rows = [] if found is None else saliency_statistics(found, loaded, scorer, scored)
    if found is not None:
        result_console().print(statistics_table(found, rows))
    typer.echo(json.dumps({"picture": str(out), "stages": [row.model_dump() for row in rows]}))


def _check(file: Path | None, prompt: Path | None, run: Path | None) -> None:
    if prompt is not None and run is not None:
        raise ValueError(f"prompt={prompt} and run={run}: give one of --prompt and --run")
    if file is None and prompt is None and run is None:
        raise ValueError("nothing to show: give a file made by `erecap saliency`, --prompt FILE, or --run DIR --replan K")
