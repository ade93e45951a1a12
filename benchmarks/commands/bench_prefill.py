"""``erecap bench-prefill``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from benchmarks.output.console import result_console
from benchmarks.output.files import write_atomically
from benchmarks.reports.format import percent, seconds, times

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from benchmarks.micro.prefill import PrefillReport
    from erecap.models.loading import LoadedModel
    from erecap.models.pruner import TokenPruner

_HEADERS = (
    "tokens", "dropped", "kept share", "stock generate", "baseline", "pruned", "speedup", "ceiling", "of ceiling",
    "stock / baseline", "pruner's own share",
)  # fmt: skip


def bench_prefill(
    lengths: Annotated[str, typer.Option(help="Prompt lengths in tokens, separated by commas.")] = "2048,4096",
    keep: Annotated[float, typer.Option(help="Share of the tokens that each stage keeps.")] = 0.7,
    selector: Annotated[str, typer.Option(help="Selector that scores the tokens.")] = "learned",
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    pruner: Annotated[str | None, typer.Option(help="Directory of the model's pruner; the bundled one by default.")] = None,
    random_weights: Annotated[bool, typer.Option(help="Use a random model of the bundled planner's shape.")] = False,
    rounds: Annotated[int, typer.Option(help="Timed rounds; each runs baseline, pruned and stock generate once.")] = 9,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; chosen for the machine by default.")] = None,
    device: Annotated[str | None, typer.Option(help="A torch device; the GPU by default where there is one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report here as JSON.")] = None,
) -> None:
    """Time the prefill of random tokens: pruned, baseline and stock generate in turn.

    The ceiling is the largest speedup that the dropped tokens allow. The last line of stdout is the report as JSON.
    """
    from benchmarks.micro.prefill import measure_prefill  # takes seconds: imports torch

    counts = parse_lengths(lengths)
    if random_weights:
        timed, scorer = _random(keep, dtype, device)
    else:
        loaded, scorer = load_with_pruner(selector, model, pruner, dtype, device)
        timed = loaded.model
    report = measure_prefill(timed, keep, selector, scorer, counts, rounds)
    if out is not None:
        write_atomically(out, report.model_dump_json(indent=2) + "\n")
    result_console().print(_table(report))
    typer.echo(report.model_dump_json())


def parse_lengths(text: str) -> list[int]:
    """Read prompt lengths.

    Parameters
    ----------
    text : str
        Positive whole numbers of tokens, separated by commas.

    Returns
    -------
    list of int
        The lengths.

    Raises
    ------
    ValueError
        For other text.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"lengths={text!r} must be positive whole numbers separated by commas: such as 2048,4096")
    return [int(part) for part in parts]


def load_with_pruner(
    selector: str, model: str | None, pruner: str | None, dtype: str | None, device: str | None
) -> tuple["LoadedModel", "TokenPruner | None"]:
    """Load a model, and the pruner where the selector uses one.

    Parameters
    ----------
    selector : str
        Name of the selector.
    model : str or None
        Directory or hub id; ``None`` for the bundled planner.
    pruner : str or None
        Directory of the pruner; ``None`` for the bundled one.
    dtype, device : str or None
        Names of torch's dtype and device; ``None`` takes the default of the machine.

    Returns
    -------
    LoadedModel, TokenPruner or None
        The model with its tokenizer, and the pruner or ``None`` for a selector that uses none.

    Raises
    ------
    ValueError
        If the selector needs a pruner, and a model other than the bundled one is given without a pruner.
    """
    from erecap.models.loading import load_model, load_pruner
    from erecap.selectors import USE_PRUNER

    if selector in USE_PRUNER and model is not None and pruner is None:
        raise ValueError(f"model={model!r} needs a pruner of its own: give --pruner DIR, or --selector random or recency")
    loaded = load_model(model, dtype, device)
    return loaded, load_pruner(pruner, loaded) if selector in USE_PRUNER else None


def _random(keep: float, dtype: str | None, device: str | None) -> tuple["PreTrainedModel", "TokenPruner | None"]:
    from benchmarks.micro.prefill import random_model, random_pruner
    from erecap.models.device import resolve_device, resolve_dtype

    place = resolve_device(device)
    model = random_model(resolve_dtype(dtype, place), str(place))
    return model, random_pruner(model, keep)


def _table(report: "PrefillReport") -> Table:
    place = f"{report.dtype} on {report.device}, {report.threads} threads"
    title = f"prefill of {report.model}, keep {report.keep}, selector {report.selector}, {place}"
    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for header in _HEADERS:
        out.add_column(header, justify="right")
    for p in report.points:
        out.add_row(
            str(p.prompt_tokens), str(p.dropped_tokens), percent(p.kept_share), seconds(p.hf_generate_s), seconds(p.baseline_s),
            seconds(p.erecap_s), times(p.speedup_p50), times(p.ceiling), percent(p.of_ceiling_p50), times(p.hf_over_baseline_p50),
            f"{100 * p.pruner_share:.1f}%",
        )  # fmt: skip
    return out
