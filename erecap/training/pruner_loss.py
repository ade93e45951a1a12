"""The terms of the pruner's loss.

As in SDTP (arXiv 2504.04514), loss = lm * LM loss under soft masks + mse * squared error to the normalised saliency + rank *
logistic ranking loss over sampled pairs. By default the last two have weight 0: in closed loop they made the bundled planner's
pruner worse (docs/pruning.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from erecap.training.batches import Batch
from erecap.training.loss import weighted_loss
from erecap.training.sequences import Float32
from erecap.training.soft_forward import PrunerForward

TARGETS = ("plan", "all")
"""Target tokens of the LM loss in a replan: "plan", those of its plan, or "all", every token up to the plan's end."""

_SALIENCY_FLOOR = 1e-8


@dataclass(frozen=True)
class PrunerLoss:
    """The weights of the loss terms and their settings.

    Attributes
    ----------
    lm, mse, rank
        Weights of the LM loss, of the squared error to saliency, and of the ranking loss.
    pairs_per_token
        Pairs that the ranking loss samples per scored token; memory grows linearly with this.
    targets
        Target tokens of the LM loss, one of ``TARGETS``.

    Raises
    ------
    ValueError
        For negative weights or all 0, for no pairs, and for unknown targets.
    """

    lm: float = 1.0
    mse: float = 0.0
    rank: float = 0.0
    pairs_per_token: int = 4
    targets: str = "plan"

    def __post_init__(self) -> None:
        if min(self.lm, self.mse, self.rank) < 0 or self.lm + self.mse + self.rank == 0:
            raise ValueError(f"loss weights lm={self.lm} mse={self.mse} rank={self.rank} must not be negative, and not all 0")
        if self.pairs_per_token < 1:
            raise ValueError(f"pairs_per_token={self.pairs_per_token} must be at least 1")
        if self.targets not in TARGETS:
            raise ValueError(f"targets={self.targets!r} are not known: choose from {', '.join(TARGETS)}")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term, by name; terms of weight 0 are left out."""
        return {name: weight for name, weight in (("lm", self.lm), ("mse", self.mse), ("rank", self.rank)) if weight}

    @property
    def needs_saliency(self) -> bool:
        """Whether a term of nonzero weight compares scores with saliency."""
        return self.mse + self.rank > 0


@dataclass(frozen=True)
class SaliencyLoss:
    """The agreement of scores with saliency: scalars, each a mean.

    Attributes
    ----------
    mse
        Squared error to the normalised saliency.
    rank
        Ranking loss of the sampled pairs.
    order
        Share of the pairs whose scores are in the order of their saliency, 0..1.
    """

    mse: Tensor
    rank: Tensor
    order: Tensor


def lm_loss(model: PreTrainedModel, forward: PrunerForward, batch: Batch) -> Tensor:
    """Compute the mean cross entropy of the replans' targets, in nats; 0 where a batch has none."""
    if not batch.weights.any():
        return _zero(forward)
    return weighted_loss(forward.hidden, model.get_output_embeddings().weight, batch).loss  # type: ignore[no-untyped-call]


def _zero(forward: PrunerForward) -> Tensor:
    """Make a loss of 0 that depends on the scores, so that it has a gradient."""
    return torch.stack([scores.sum() for scores in forward.scores]).sum() * 0.0


def normalised(saliency: Tensor) -> Tensor:
    """Take the logarithm of saliency, then scale it to zero mean and unit variance over the tokens that have saliency.

    Saliency spans orders of magnitude. Without the logarithm, a few tokens would dominate the squared error.

    Parameters
    ----------
    saliency
        float32 ``(stages, length)``, NaN where there is none.

    Returns
    -------
    Tensor
        float32 ``(stages, length)``; NaN where there is no saliency.
    """
    logs = (saliency + _SALIENCY_FLOOR).log()
    mean = logs.nanmean(-1, keepdim=True)
    deviation = ((logs - mean) ** 2).nanmean(-1, keepdim=True).sqrt()
    return (logs - mean) / deviation.clamp_min(1e-6)


def saliency_losses(scores: Tensor, target: Tensor, pairs_per_token: int) -> SaliencyLoss:
    """Compare the scores of one row at one stage with its saliency.

    The ranking loss of a pair is softplus(score of the less salient token - score of the more salient one); pairs are sampled
    uniformly.

    Parameters
    ----------
    scores
        float32 ``(tokens,)``.
    target
        Normalised saliency, float32 ``(tokens,)``.
    pairs_per_token
        How many pairs to sample per token.
    """
    mse = functional.mse_loss(scores, target)
    first, second = torch.randint(len(target), (2, pairs_per_token * len(target))).to(target.device)
    gap = target[first] - target[second]
    ahead, different = (scores[first] - scores[second]) * gap.sign(), gap != 0
    pairs = different.sum().clamp_min(1)
    right = (ahead.detach() > 0) & different
    return SaliencyLoss(mse, (functional.softplus(-ahead) * different).sum() / pairs, right.sum() / pairs)


def pruner_losses(forward: PrunerForward, saliency: Sequence[Float32], pairs_per_token: int) -> SaliencyLoss:
    """Compare all scores with saliency: means over rows, stages and tokens that have saliency.

    Parameters
    ----------
    forward
        Scores of each row and stage.
    saliency
        Saliency of each row, float32 ``(stages, tokens)``, NaN where there is none.
    pairs_per_token
        How many pairs to sample per token.
    """
    terms: list[Tensor] = []
    for row, values in enumerate(saliency):
        targets = normalised(torch.from_numpy(values)).to(forward.hidden.device)[:, : forward.hidden.shape[1]]
        known = ~targets[0].isnan()
        if known.sum() < 2:
            continue
        for scores, target in zip(forward.scores, targets, strict=True):
            found = saliency_losses(scores[row, : len(known)][known], target[known], pairs_per_token)
            terms.append(torch.stack([found.mse, found.rank, found.order]))
    return SaliencyLoss(*(torch.stack(terms).mean(0) if terms else _zero(forward).expand(3)))
