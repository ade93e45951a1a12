"""``erecap bench-replans``: what pruning changes at the replans of recorded episodes, by the reason for the replan."""

from pathlib import Path
from typing import Annotated

import typer


def bench_replans(
    data: Annotated[Path, typer.Option(help="Run directory with recorded episodes, made with `erecap run` or `erecap compare`.")],
    backends: Annotated[
        str,
        typer.Option(help="Backends with a model in this process, as for compare. The first is what the others are held against."),
    ] = "baseline,erecap?keep=0.7,erecap-session?keep=0.7",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to take, in the order of the file.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest greedy plan in tokens.")] = 256,
    out: Annotated[Path, typer.Option(help="Directory of the results. The same command continues a stopped run.")] = Path(
        "runs/replans"
    ),
) -> None:
    """Measure what pruning changes in the plans of recorded episodes, by the reason for the replan.

    Each backend reads the prompts of an episode in their order, so one that keeps keys and
    values between replans meets a new goal with tokens dropped under the old one. Measured
    are the loss of the recorded plan and the backend's own greedy plan.

    The directory gets replans.jsonl, replans.json and replans.md. The last line of stdout is one JSON object.
    """
    from benchmarks.commands.bench_replans_study import run_study

    run_study(data, backends, episodes, max_new_tokens, out)
