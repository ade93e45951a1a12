"""``erecap bench-quality``."""

from pathlib import Path
from typing import Annotated

import typer


def bench_quality(
    model: Annotated[str | None, typer.Option(help="Model directory or hub id; the bundled planner by default.")] = None,
    pruner: Annotated[
        Path | None, typer.Option(help="Directory of the model's pruner, for the row `learned`; the bundled planner has its own.")
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option(
            help="Selectors to measure, separated by commas.", show_default="learned (with a pruner), attention, random, recency"
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            help="Kept shares, separated by commas: what a layer sees of a prompt, mean over the layers; the keep ratio follows.",
            show_default="0.7,0.5",
        ),
    ] = None,
    keep: Annotated[str | None, typer.Option(help="Instead of --share: keep ratios at each stage, separated by commas.")] = None,
    stages: Annotated[
        str | None,
        typer.Option(
            help="Layers after which to prune, such as 0-5 or 0+2+4.", show_default="the seed's, or the pruner's where these differ"
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="A .txt file, or a .jsonl file with an instruction (as in Dolly-15k) or a chat per line. May be repeated.",
            show_default="a short sample that ships",
        ),
    ] = None,
    texts: Annotated[int, typer.Option(help="Pieces of text to measure on, drawn at random.")] = 16,
    length: Annotated[int, typer.Option(help="Tokens of a piece, and of the text around a needle.")] = 640,
    needles: Annotated[int, typer.Option(help="Prompts with a needle, at depths from the beginning to the end; 0 for none.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Greedy tokens to compare with the unpruned model's.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of the choice of texts and needles.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; the machine's default otherwise.")] = None,
    device: Annotated[str | None, typer.Option(help="A torch device; the GPU by default where there is one.")] = None,
    out: Annotated[Path, typer.Option(help="Directory of the results. The same command continues a stopped run.")] = Path(
        "runs/quality"
    ),
) -> None:
    """Measure what pruning costs any supported model, on text of yours: perplexity, needles, agreement. Offline.

    Perplexity: each text is cut into pieces of --length tokens. The last quarter of a
    piece is predicted from what pruning leaves of the rest; a token of the quarter sees
    all tokens of the quarter before it. Lower is better.

    Needles: a sentence such as "The secret number of the amber lantern is 4711." is hidden
    in the text and asked for at the end. Found if the greedy answer holds the number.
    Perplexity alone judges nothing: `recency` has a good one and finds few needles.

    Same tokens: greedy tokens after a piece's first three quarters that equal those of
    the unpruned model.

    Each selector is measured at each share on the same prompts; nothing is protected
    but what every schedule keeps (the first 4 tokens, the last 10%). The directory gets
    quality.json, written after every row, and quality.md. Other selectors, shares or
    pruners with the same texts add rows. The last line of stdout is one JSON object.
    """
    from benchmarks.commands.bench_quality_study import QualityOptions, run_quality
    from benchmarks.recipes.quality.cases import TextChoice
    from erecap.models.loading import bundled_texts

    if share is not None and keep is not None:
        raise ValueError(f"share={share!r} and keep={keep!r}: give one of --share and --keep")
    choice = TextChoice(tuple(text or [bundled_texts()]), texts, length, needles, max_new_tokens, seed)
    run_quality(QualityOptions(choice, model, pruner, selector, share, keep, stages, dtype, device), out)
