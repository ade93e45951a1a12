"""A frozen decoder under soft masks: the effect of a schedule, differentiable in the pruner's scores."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from erecap.engine.differentiable import biased_layer_forward
from erecap.models.architecture import decoder_parts
from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.training.softmask import MaskConfig, Replans, SoftMask


@dataclass(frozen=True)
class PrunerForward:
    """The result of a forward pass under soft masks.

    Attributes
    ----------
    hidden
        Hidden state after the final norm, ``(rows, length, width)``.
    scores
        Scores of each stage, float32 ``(rows, length)``, with gradient.
    mask
        The soft mask after the last stage.
    shares
        Share of the prunable tokens that entered each layer by the hard verdicts, float32 ``(layers, rows)``; NaN for a row without
        prunable tokens.
    """

    hidden: Tensor
    scores: tuple[Tensor, ...]
    mask: SoftMask
    shares: Tensor

    def kept_share(self) -> tuple[Tensor, Tensor]:
        """Return (sum, count) over rows of the share of prunable tokens that entered a layer, mean over the layers."""
        return _over_rows(self.shares.mean(0))

    def final_share(self) -> tuple[Tensor, Tensor]:
        """Return (sum, count) over rows of the share of prunable tokens that entered the last layer."""
        return _over_rows(self.shares[-1])


def _over_rows(shares: Tensor) -> tuple[Tensor, Tensor]:
    return shares.nansum(), (~shares.isnan()).sum()


def soft_forward(
    model: PreTrainedModel, pruner: TokenPruner, replans: Replans, schedule: PruneSchedule, config: MaskConfig
) -> PrunerForward:
    """Run a frozen model with a soft mask after each stage. Gradients reach the pruner through the attention bias only.

    A stage scores the detached residual stream, so no gradient flows from a stage's scores into earlier scorers. The backward pass
    recomputes the layers after the first stage, so only one layer's activations are in memory at a time.

    Parameters
    ----------
    model
        The language model.
    pruner
        Scores the tokens, with one scorer per stage of ``schedule``.
    replans
        One replan per row.
    schedule
        Stages and keep ratios.
    config
        Softness of the keep-or-drop decisions.
    """
    parts, batch = decoder_parts(model), replans.batch
    stage_after = {stage.after_layer: index for index, stage in enumerate(schedule.stages)}
    mask, bias, scores = SoftMask(replans, schedule, config), None, []
    shares, alive = [], mask.alive_share()
    stream, pruner_dtype = parts.embed(batch.input_ids), next(pruner.parameters()).dtype
    rope = parts.rotary(stream, torch.arange(stream.shape[1], device=stream.device)[None])
    for number, layer in enumerate(parts.layers):
        shares.append(alive)
        if bias is None:
            stream = biased_layer_forward(layer, stream, rope, None)
        else:
            stream = checkpoint(biased_layer_forward, layer, stream, rope, bias, use_reentrant=False)
        if number in stage_after:
            stage = stage_after[number]
            scores.append(pruner(stream.detach().to(pruner_dtype), stage))
            mask.apply(scores[-1], stage)
            bias, alive = mask.log_keep, mask.alive_share()
    return PrunerForward(parts.norm(stream), tuple(scores), mask, torch.stack(shares))
