"""``erecap trace-replans``: a recorded episode as tokens, which ``erecap profile sessions`` replays on any model."""

import json
from pathlib import Path
from typing import Annotated

import typer


def trace_replans(
    data: Annotated[Path, typer.Option(help="Run directory with the recorded episode, made with `erecap run`.")],
    out: Annotated[Path, typer.Option(help="The trace, a JSON file.")] = Path("runs/replans.json"),
    model: Annotated[
        str | None, typer.Option(help="Model whose tokenizer to use: the one that planned; by default the bundled planner.")
    ] = None,
    episode: Annotated[
        int | None,
        typer.Option(help="Seed of the episode; by default that of the longest last prompt; successes come first."),
    ] = None,
) -> None:
    """Write the prompts and answers of one recorded episode as tokens.

    `erecap profile sessions --trace FILE` replays them on any model, also one with random weights: which tokens are new at each
    replan, what is protected, how long the answers are and how much of the drafts is accepted is then as it was recorded.

    The last line of stdout is one JSON object.
    """
    from benchmarks.recipes.traces import episode_to_trace, trace_of
    from erecap.models.loading import load_model

    backend, prompts = episode_to_trace(data, episode)
    trace = trace_of(backend, prompts, load_model(model, "float32", "cpu"))
    trace.save(out)
    typer.echo(json.dumps({"trace": str(out), "source": trace.source, "replans": len(trace.replans)}))
