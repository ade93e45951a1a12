"""Statistics of collected saliency by stage, and its agreement with a pruner's scores."""

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from rich import box
from rich.table import Table

from benchmarks.comparison.metrics import mean, rank_correlation
from benchmarks.reports.format import NONE, percent
from erecap.engine.differentiable import stage_hidden
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.training.saliency_file import SaliencySet, SalientSample
from erecap.training.sequences import Float32

Scores = dict[int, Float32]
"""By layer, the scores of a sample's tokens, float32 ``(tokens,)``."""
TOP_SHARE, CARRIED_SHARE = 0.3, 0.1


class StageStatistics(BaseModel):
    """Statistics of one stage. Rank correlations (Spearman) and ``pruner_top`` are means over samples.

    Attributes
    ----------
    after_layer
        Layer after which the stage comes.
    tokens
        Number of tokens with saliency, in all samples.
    mean, median, p95, max
        Mean, median, 95th percentile and maximum of their saliency.
    carried
        Share of the total saliency in the 10% most salient tokens, 0..1; ``None`` where all saliency is 0.
    next_rank
        Rank correlation with the next stage's saliency, -1..1; ``None`` for the last stage, and where no sample has one, such as
        where all tokens have the same saliency.
    pruner_rank
        Rank correlation with the pruner's scores of the unpruned residual stream, -1..1; ``None`` without a pruner for this stage.
    pruner_top
        Share of the 30% most salient tokens that are in the pruner's top 30%, 0..1 (0.3 by chance); ``None`` as above.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    after_layer: int
    tokens: int
    mean: float
    median: float
    p95: float
    max: float
    carried: float | None
    next_rank: float | None
    pruner_rank: float | None
    pruner_top: float | None


def saliency_statistics(
    found: SaliencySet, loaded: LoadedModel, pruner: TokenPruner | None = None, scored: int = 32
) -> list[StageStatistics]:
    """Compute the statistics of each stage.

    Parameters
    ----------
    found
        Collected saliency.
    loaded
        The model that the saliency was computed with.
    pruner
        The pruner to compare with, if any.
    scored
        Number of samples that the pruner scores; the first ones are taken.
    """
    samples = [sample for sample in found.samples() if not np.isnan(sample.saliency).all()]
    if not samples:
        raise ValueError("none of the samples has saliency: collect it anew from episodes with more than one plan")
    scores = [] if pruner is None else [(s, _scores(loaded, pruner, s, found.stages)) for s in samples[:scored]]
    return [_stage(row, found.stages, samples, scores) for row in range(len(found.stages))]


def statistics_table(found: SaliencySet, stages: list[StageStatistics]) -> Table:
    """Make a table of the statistics, for a terminal."""
    title = f"saliency of {len(found)} samples: {found.loss}"
    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", caption=_CAPTION, caption_justify="left")
    for header in _HEADERS:
        out.add_column(header, justify="right")
    for s in stages:
        values = (f"{value:.2e}" for value in (s.mean, s.median, s.p95, s.max))
        ranks = (_signed(s.next_rank), _signed(s.pruner_rank))
        out.add_row(str(s.after_layer), str(s.tokens), *values, percent(s.carried), *ranks, percent(s.pruner_top))
    return out


_HEADERS = (
    "after layer", "tokens", "mean", "median", "p95", "max", "carried by top 10%", "rank corr. next stage",
    "rank corr. pruner", "top 30% in pruner's",
)  # fmt: skip
_CAPTION = "rank correlations (Spearman) and shares of the top 30% are means over samples; by chance they are 0 and 30%"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.2f}"


def _stage(
    row: int, stages: tuple[int, ...], samples: list[SalientSample], scores: list[tuple[SalientSample, Scores]]
) -> StageStatistics:
    values = np.concatenate([_known(sample, sample.saliency[row]) for sample in samples]).astype(np.float64)
    carriers = np.sort(values)[-max(1, round(CARRIED_SHARE * len(values))) :]
    layer, last = stages[row], row + 1 == len(stages)
    compared = [(_known(s, s.saliency[row]), _known(s, by_layer[layer])) for s, by_layer in scores if layer in by_layer]
    following = [rank_correlation(*(_known(s, s.saliency[r]) for r in (row, row + 1))) for s in samples if not last]
    return StageStatistics(
        after_layer=layer,
        tokens=len(values),
        mean=float(values.mean()),
        median=float(np.median(values)),
        p95=float(np.quantile(values, 0.95)),
        max=float(values.max()),
        carried=float(carriers.sum() / values.sum()) if values.sum() else None,
        next_rank=_mean(following),
        pruner_rank=_mean([rank_correlation(*pair) for pair in compared]),
        pruner_top=mean([_shared_top(*pair) for pair in compared]),
    )


def _mean(values: list[float | None]) -> float | None:
    """Return the mean of the values that exist."""
    return mean([value for value in values if value is not None])


def _known(sample: SalientSample, values: Float32) -> Float32:
    """Select the ``values`` of the tokens that have saliency, which are the same tokens at every stage."""
    known: Float32 = values[~np.isnan(sample.saliency[0])]
    return known


def _shared_top(salient: Float32, scored: Float32) -> float:
    count = max(1, round(TOP_SHARE * len(salient)))
    first, second = (set(np.argsort(-values, kind="stable")[:count].tolist()) for values in (salient, scored))
    return len(first & second) / count


def _scores(loaded: LoadedModel, pruner: TokenPruner, sample: SalientSample, stages: tuple[int, ...]) -> Scores:
    """Score the unpruned residual stream, at the stages that the pruner has."""
    known = [stage for stage in stages if stage in pruner.stages]
    return dict(_scored(loaded, pruner, sample, known)) if known else {}


def _scored(loaded: LoadedModel, pruner: TokenPruner, sample: SalientSample, known: list[int]) -> Iterator[tuple[int, Float32]]:
    ids = torch.from_numpy(sample.input_ids.astype(np.int64))[None].to(loaded.device)
    with torch.no_grad():
        hidden, _ = stage_hidden(loaded.model, ids, known)
        for stage, stream in zip(known, hidden, strict=True):
            yield stage, pruner(stream, pruner.stages.index(stage))[0].float().cpu().numpy()
