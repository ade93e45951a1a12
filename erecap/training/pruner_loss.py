"""What the pruner is trained for: the terms of its loss.

Seed method (SDTP, arXiv 2504.04514): loss = lm * LM loss under soft masks + mse * squared error to the normalised saliency +
rank * logistic ranking loss over sampled pairs. The default leaves the last two out: in closed loop they made the bundled planner's
pruner worse (docs/pruning.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from erecap.training.data import Batch
from erecap.training.loss import weighted_loss
from erecap.training.sequences import Float32
from erecap.training.soft_forward import PrunerForward
from erecap.training.softmask import Targets

_SALIENCY_FLOOR = 1e-8


@dataclass(frozen=True)
class PrunerLoss:
    """Weights of the loss terms, how many pairs per scored token the ranking loss samples (memory is linear in length), and which
    tokens of an episode the LM loss is of: those of the drawn replan's plan, or all up to its end (the seed's)."""

    lm: float = 1.0
    mse: float = 0.0
    rank: float = 0.0
    pairs_per_token: int = 4
    targets: Targets = "plan"

    def __post_init__(self) -> None:
        if min(self.lm, self.mse, self.rank) < 0 or self.lm + self.mse + self.rank == 0:
            raise ValueError(f"loss weights lm={self.lm} mse={self.mse} rank={self.rank} must not be negative, and not all 0")
        if self.pairs_per_token < 1:
            raise ValueError(f"pairs_per_token={self.pairs_per_token} must be at least 1")

    @property
    def weights(self) -> dict[str, float]:
        """Those of the terms that count."""
        return {name: weight for name, weight in (("lm", self.lm), ("mse", self.mse), ("rank", self.rank)) if weight}

    @property
    def needs_saliency(self) -> bool:
        """Whether a term compares with a saliency."""
        return self.mse + self.rank > 0


@dataclass(frozen=True)
class SaliencyLoss:
    """How scores compare with saliency, each a mean: squared error, ranking loss, and the share of pairs in the right order."""

    mse: Tensor
    rank: Tensor
    order: Tensor


def lm_loss(model: PreTrainedModel, forward: PrunerForward, batch: Batch) -> Tensor:
    """Mean cross entropy of the replans' targets; 0 where a batch has none."""
    if not batch.weights.any():
        return forward.hidden.new_zeros(())
    return weighted_loss(forward.hidden, model.get_output_embeddings().weight, batch).loss  # type: ignore[no-untyped-call]


def normalised(saliency: Tensor) -> Tensor:
    """Logarithm, then zero mean and unit variance over the tokens that have saliency: float32 [stages, length], NaN elsewhere.

    Saliency spans orders of magnitude; without the logarithm a handful of tokens would be the whole squared error. Order is kept.
    """
    logs = (saliency + _SALIENCY_FLOOR).log()
    mean = logs.nanmean(-1, keepdim=True)
    deviation = ((logs - mean) ** 2).nanmean(-1, keepdim=True).sqrt()
    return (logs - mean) / deviation.clamp_min(1e-6)


def saliency_losses(scores: Tensor, target: Tensor, pairs_per_token: int) -> SaliencyLoss:
    """Those of one row at one stage; ``scores`` and ``target`` are float32 [tokens].

    Ranking: pairs sampled uniformly, softplus(score of the less salient - score of the more salient).
    """
    mse = functional.mse_loss(scores, target)
    first, second = torch.randint(len(target), (2, pairs_per_token * len(target))).to(target.device)
    gap = target[first] - target[second]
    ahead, different = (scores[first] - scores[second]) * gap.sign(), gap != 0
    pairs = different.sum().clamp_min(1)
    right = (ahead.detach() > 0) & different
    return SaliencyLoss(mse, (functional.softplus(-ahead) * different).sum() / pairs, right.sum() / pairs)


def pruner_losses(forward: PrunerForward, saliency: Sequence[Float32], pairs_per_token: int) -> SaliencyLoss:
    """Means over rows and stages, over tokens that have saliency."""
    terms: list[Tensor] = []
    for row, values in enumerate(saliency):
        targets = normalised(torch.from_numpy(values)).to(forward.hidden.device)[:, : forward.hidden.shape[1]]
        known = ~targets[0].isnan()
        if known.sum() < 2:
            continue
        for scores, target in zip(forward.scores, targets, strict=True):
            found = saliency_losses(scores[row, : len(known)][known], target[known], pairs_per_token)
            terms.append(torch.stack([found.mse, found.rank, found.order]))
    return SaliencyLoss(*(torch.stack(terms).mean(0) if terms else forward.hidden.new_zeros(3)))
