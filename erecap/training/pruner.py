"""Train the token pruner: the language model stays frozen, the stages' MLPs learn which tokens later plans can do without.

Seed method (SDTP, arXiv 2504.04514): loss = lm * LM loss under soft masks + mse * squared error to the normalised saliency +
rank * logistic ranking loss over sampled pairs. Each step plays one replan per episode, from the second on: the first prompt has
nothing to prune.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from erecap.architecture import decoder_parts
from erecap.identity import identify
from erecap.masks import attention_mask
from erecap.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.training.config import TrainConfig
from erecap.training.data import Batch, Batches, digest
from erecap.training.frozen import frozen, layer_forward
from erecap.training.loop import Hooks, Metrics, StepRecord, TrainLoop
from erecap.training.loss import weighted_loss
from erecap.training.saliency import SaliencySet
from erecap.training.sequences import Float32
from erecap.training.softmask import MaskConfig, Replans, SoftMask, draw_replans

_SALIENCY_FLOOR = 1e-8


@dataclass(frozen=True)
class PrunerLoss:
    """Weights of the loss terms, and how many pairs per scored token the ranking loss samples (memory is linear in length)."""

    lm: float = 1.0
    mse: float = 1.0
    rank: float = 1.0
    pairs_per_token: int = 4

    def __post_init__(self) -> None:
        if min(self.lm, self.mse, self.rank) < 0 or self.lm + self.mse + self.rank == 0:
            raise ValueError(f"loss weights lm={self.lm} mse={self.mse} rank={self.rank} must not be negative, and not all 0")
        if self.pairs_per_token < 1:
            raise ValueError(f"pairs_per_token={self.pairs_per_token} must be at least 1")


@dataclass(frozen=True)
class PrunerForward:
    """``hidden``: final normalised hidden state under the soft masks; ``scores[s]`` [rows, length] of each stage, with gradient."""

    hidden: Tensor
    scores: tuple[Tensor, ...]
    mask: SoftMask


def soft_forward(
    model: PreTrainedModel, pruner: TokenPruner, replans: Replans, schedule: PruneSchedule, config: MaskConfig
) -> PrunerForward:
    """Run a frozen model with soft verdicts after each stage; gradients reach the pruner through the attention bias only.

    A stage scores the detached stream, so that a later stage's loss does not train an earlier stage's scorer. Layers after the
    first stage are recomputed in the backward pass, which keeps one layer's attention weights in memory at a time.
    """
    parts, batch = decoder_parts(model), replans.batch
    if parts.attention not in ("sdpa", "eager"):
        raise ValueError(f"attention {parts.attention!r} takes no soft mask: load the model with attn_implementation='sdpa'")
    stage_after = {stage.after_layer: index for index, stage in enumerate(schedule.stages)}
    mask, bias, scores = SoftMask(replans, schedule, config), None, []
    stream, pruner_dtype = parts.embed(batch.input_ids), next(pruner.parameters()).dtype
    rope = parts.rotary(stream, torch.arange(stream.shape[1], device=stream.device)[None])
    for number, layer in enumerate(parts.layers):
        if bias is None:
            stream = layer_forward(layer, stream, rope, attention_mask(parts.attention, None, stream))
        else:
            stream = checkpoint(layer_forward, layer, stream, rope, bias, use_reentrant=False)
        if number in stage_after:
            stage = stage_after[number]
            scores.append(pruner(stream.detach().to(pruner_dtype), stage))
            mask.apply(scores[-1], stage)
            bias = mask.bias()
    return PrunerForward(parts.norm(stream), tuple(scores), mask)


def lm_loss(model: PreTrainedModel, forward: PrunerForward, batch: Batch) -> Tensor:
    """Mean cross entropy of the replans' plan tokens; 0 where a batch has none."""
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


def saliency_losses(scores: Tensor, target: Tensor, pairs_per_token: int) -> tuple[Tensor, Tensor]:
    """Squared error and ranking loss of one row at one stage, both means; ``scores`` and ``target`` are float32 [tokens].

    Ranking: pairs sampled uniformly, softplus(score of the less salient - score of the more salient).
    """
    mse = functional.mse_loss(scores, target)
    first, second = torch.randint(len(target), (2, pairs_per_token * len(target))).to(target.device)
    gap = target[first] - target[second]
    losses = functional.softplus(-(scores[first] - scores[second]) * gap.sign())
    different = gap != 0
    return mse, (losses * different).sum() / different.sum().clamp_min(1)


def pruner_losses(forward: PrunerForward, saliency: list[Float32], pairs_per_token: int) -> tuple[Tensor, Tensor]:
    """Mean over rows and stages of squared error and ranking loss, over tokens that have saliency."""
    terms = []
    for row, values in enumerate(saliency):
        targets = normalised(torch.from_numpy(values)).to(forward.hidden.device)[:, : forward.hidden.shape[1]]
        known = ~targets[0].isnan()
        if known.sum() < 2:
            continue
        for scores, target in zip(forward.scores, targets, strict=True):
            terms.append(torch.stack(saliency_losses(scores[row, : len(known)][known], target[known], pairs_per_token)))
    if not terms:
        return forward.hidden.new_zeros(()), forward.hidden.new_zeros(())
    mse, rank = torch.stack(terms).mean(0)
    return mse, rank


def train_pruner(
    model: PreTrainedModel,
    pruner: TokenPruner,
    batches: Batches,
    saliency: SaliencySet,
    schedule: PruneSchedule,
    config: TrainConfig,
    out_dir: Path,
    loss: PrunerLoss | None = None,
    mask: MaskConfig | None = None,
    resume: bool = True,
    hooks: Hooks | None = None,
) -> list[StepRecord]:
    """Train ``pruner`` in place and save it to ``out_dir / "pruner"``; return the log's records.

    ``batches`` deal the sequences that ``saliency`` was collected from. Records hold lm, mse and rank (unweighted), their weighted
    sum loss, and kept_share (of prunable tokens, after the last stage), beside what ``train_planner`` logs; checkpoints and resume
    are as there. The model's weights are never changed. Raises ``ValueError`` where pruner, schedule, saliency, data
    and model do not fit, or where ``out_dir`` holds a run of other settings.
    """
    weights, mask_config = loss or PrunerLoss(), mask or MaskConfig()
    _check(model, pruner, batches, saliency, schedule)
    parts = {"schedule": asdict(schedule), "loss": asdict(weights), "mask": asdict(mask_config), "training": config.record()}
    settings = {"model": pruner.identity.checksum, "data": saliency.data, **parts}

    def step(batch: Batch) -> tuple[Tensor, Metrics]:
        replans = draw_replans(batch)
        forward = soft_forward(model, pruner, replans, schedule, mask_config)
        lm = lm_loss(model, forward, replans.batch)
        mse, rank = pruner_losses(forward, [saliency[i] for i in batch.indices], weights.pairs_per_token)
        terms: Metrics = {"lm": (lm.detach(), 1), "mse": (mse.detach(), 1), "rank": (rank.detach(), 1)}
        total = weights.lm * lm + weights.mse * mse + weights.rank * rank
        return total, {**terms, "kept_share": forward.mask.kept_share()}

    with frozen(model):
        records = TrainLoop(pruner, step, batches, config, Path(out_dir), resume, hooks, settings).run()
    pruner.save_pretrained(Path(out_dir) / "pruner")
    return records


def _check(model: PreTrainedModel, pruner: TokenPruner, batches: Batches, saliency: SaliencySet, schedule: PruneSchedule) -> None:
    pruner.check_model(identify(model))
    if schedule.rule != "top_k":
        raise ValueError(
            f"soft masks are those of the rule 'top_k', not of {schedule.rule!r}: train by top_k; the scorers serve all"
        )
    stages = tuple(stage.after_layer for stage in schedule.stages)
    if not stages == pruner.stages == saliency.stages:
        both = f"schedule {stages}, pruner {pruner.stages}, saliency {saliency.stages}"
        raise ValueError(f"stages differ: {both}: make them the same")
    data = digest(batches.sequences)
    if saliency.data != data:
        raise ValueError(
            f"the saliency is of other episodes (checksum {saliency.data}, {len(saliency)} of them) than these (checksum {data}, "
            f"{len(batches.sequences)}): give the same data, number, length and seed as for the saliency, or collect it again"
        )
