"""``erecap stages``."""

from pathlib import Path
from typing import Annotated

import typer


def stages(
    data: Annotated[
        list[Path],
        typer.Option(
            help="Run directory with recorded prompts (`erecap run`; held-out seeds too, since nothing is trained), or a .jsonl"
            " or .txt file of texts as for train-pruner. May be given several times."
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    selector: Annotated[
        str | None, typer.Option(help="What scores the tokens; by default learned where there is a pruner, else attention.")
    ] = None,
    pruner: Annotated[Path | None, typer.Option(help="Directory of the model's pruner; the bundled one by default.")] = None,
    share: Annotated[
        str, typer.Option(help="Mean kept shares, separated by commas: the keep ratio of each schedule is solved for them.")
    ] = "0.6,0.4",
    first: Annotated[
        str | None, typer.Option(help="First stages to try, such as 0-5 or 0+4+8; by default every layer but the last two.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="The most that the loss on plans may rise, in nats per token, for a schedule to hold.")
    ] = 0.02,
    floor: Annotated[bool, typer.Option(help="Measure random scores too: where they hold, no scorer is tested.")] = True,
    num_prompts: Annotated[int, typer.Option(help="Prompts to measure on, drawn at random.")] = 32,
    min_length: Annotated[int, typer.Option(help="Shortest prompt in tokens.")] = 1,
    max_length: Annotated[int, typer.Option(help="Longest prompt in tokens.")] = 8192,
    max_new_tokens: Annotated[int, typer.Option(help="Longest greedy plan in tokens.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the draw of prompts.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the machine's default otherwise.")] = None,
    device: Annotated[str | None, typer.Option(help="A torch device; the GPU by default where there is one.")] = None,
    out: Annotated[Path, typer.Option(help="Directory of the results. The same command continues a stopped run.")] = Path(
        "runs/stages"
    ),
) -> None:
    """Measure after which layer pruning may start in a model, and recommend a schedule.

    Each first stage is tried at the same mean kept share: stages from there on, spaced
    as in the seed, with the keep ratio that gives the share. The table compares the loss
    of the recorded plans, and the model's own greedy plans, with no pruning.

    The directory gets stages.json, stages.md and stages.png. The last line of stdout is one JSON object.
    """
    from benchmarks.commands.stages_study import StudyOptions, run_study

    run_study(
        StudyOptions(
            tuple(data), model, selector, None if pruner is None else str(pruner), share, first, tolerance, floor, num_prompts,
            min_length, max_length, max_new_tokens, seed, dtype, device,
        ),
        out,
    )  # fmt: skip
