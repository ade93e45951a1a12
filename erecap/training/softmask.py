"""Differentiable pruning: a soft keep-or-drop decision per token (its verdict), as a bias on attention logits.

Hard pruning removes dropped tokens from the keys of later layers. Soft pruning keeps a token with probability m: in the layers
after the stage it adds log(m) to the attention logits of the token's key, 0 for m = 1 and -inf for m = 0.

How small m must be to hide a token depends on the model. A planner that is sure of what it looks up has attention logits that
outweigh a bias of a few units: it reads "dropped" tokens, its loss stays near 0, and the scorers learn nothing. So verdicts are
divided by a temperature below 1. Scores are standardised first. Otherwise they grow, every verdict saturates, and gradients vanish.

A mask belongs to one replan per row, as the engine would prefill it: the same prompt, the same forced tokens, and the same number
of kept tokens at each stage. A dropped token is hidden from all queries of later layers, also from those of earlier turns. The
verdict compares a token's noisy score with a threshold. The threshold is set so that as many scores exceed it as the stage keeps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from erecap.schedule import PruneSchedule, forced_stages, stage_counts
from erecap.training.batches import Batch, current_plans, later_plans
from erecap.training.sequences import ALWAYS_KEPT, NO_REPLAN

_SMALLEST_VARIANCE = 1e-6
"""Added to the variance of scores, so that equal scores have a gradient."""


@dataclass(frozen=True)
class MaskConfig:
    """The settings of the Gumbel-softmax over {keep, drop}.

    Attributes
    ----------
    temperature
        Divisor of the sum of logits and noise.
    sharpness
        Factor from standardised scores to logits: their standard deviation. That of the noise is 1.8.
    noise
        Whether to add Gumbel noise.
    straight_through
        Whether the forward pass uses the hard verdict (0 or 1). The backward pass always uses the soft one.

    Raises
    ------
    ValueError
        For a temperature or sharpness that is not positive.
    """

    temperature: float = 0.5
    sharpness: float = 4.0
    noise: bool = True
    straight_through: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.sharpness <= 0:
            raise ValueError(f"temperature={self.temperature} and sharpness={self.sharpness} must be positive")


@dataclass(frozen=True)
class Replans:
    """One replan per row. A row has no targets if none of its replans has tokens to drop.

    Attributes
    ----------
    batch
        The rows, cut after the longest replan. Weights are 1 on targets and 0 elsewhere. The plan carried out before the replan has
        the turn ``ALWAYS_KEPT``: prompts protect it.
    prompts
        Tokens of the prompt that the plan answers, int64 ``(rows,)``.
    turns
        Turn of the replan, or ``NO_REPLAN``, int64 ``(rows,)``.
    """

    batch: Batch
    prompts: Tensor
    turns: Tensor


def draw_replans(batch: Batch, targets: str = "plan") -> Replans:
    """Draw one replan per row with torch's global generator.

    Parameters
    ----------
    batch
        Whole episodes. Replans are drawn from the turns after the first that have a plan to imitate.
    targets
        Target tokens: "plan", those of the plan, or "all", every token up to the plan's end.
    """
    spans = [_draw_span(row, turns) for row, turns in zip(later_plans(batch).cpu(), batch.turns.cpu(), strict=True)]
    longest, device = max(end for _, end, _ in spans), batch.turns.device
    starts, ends, numbers = (torch.tensor(column, device=device) for column in zip(*spans, strict=True))
    column = torch.arange(longest, device=device)
    inside = column < ends[:, None]
    wanted = inside & (column >= starts[:, None]) if targets == "plan" else inside & (numbers[:, None] != NO_REPLAN)
    prunable = inside & ~current_plans(batch, numbers)[:, :longest]
    turns = torch.where(prunable, batch.turns[:, :longest], ALWAYS_KEPT)
    cut = Batch(batch.input_ids[:, :longest], wanted.float(), turns, ends, batch.indices)
    return Replans(cut, starts, numbers)


def _draw_span(targets: Tensor, turns: Tensor) -> tuple[int, int, int]:
    """Draw a plan of one row: (first token, one past the last, turn)."""
    found = torch.unique(turns[targets])
    if not len(found):
        return 1, 1, NO_REPLAN
    turn = int(found[torch.randint(len(found), ())])
    places = (targets & (turns == turn)).nonzero().flatten()
    gaps = (places.diff() > 1).nonzero().flatten()  # after a plan that cannot be parsed, the same turn has another
    last = places[gaps[0]] if len(gaps) else places[-1]
    return int(places[0]), int(last) + 1, turn


class SoftMask:
    """The verdicts on the tokens of one batch of replans, stage by stage.

    Parameters
    ----------
    replans
        One replan per row.
    schedule
        Gives the forced tokens, and how many tokens each stage keeps.
    config
        Softness of the verdicts.

    Attributes
    ----------
    alive
        Prompt tokens that all stages so far keep by the hard verdict, bool ``(rows, length)``.
    prunable
        Tokens that some stage may drop, bool ``(rows, length)``.
    log_keep
        Log of the probability that all stages so far keep the token, float32 ``(rows, length)``: the bias on the logits of its key.
    """

    def __init__(self, replans: Replans, schedule: PruneSchedule, config: MaskConfig) -> None:
        self.config, shape, device = config, replans.batch.turns.shape, replans.batch.turns.device
        forced, kept = np.full(shape, len(schedule.stages), np.int64), []
        for row, (turns, prompt, turn) in enumerate(
            zip(replans.batch.turns.cpu().numpy(), replans.prompts.tolist(), replans.turns.tolist(), strict=True)
        ):
            protected = (turns[:prompt] < 0) | (turns[:prompt] == turn) | (turn == NO_REPLAN)
            forced[row, :prompt] = forced_stages(schedule, protected)
            kept.append([count.kept for count in stage_counts(schedule, protected)])
        self.forced, self.kept = torch.from_numpy(forced).to(device), torch.tensor(kept, device=device)
        self.alive = torch.arange(shape[1], device=device) < replans.prompts[:, None]
        self.prunable = self.alive & (self.forced < len(schedule.stages))
        self.log_keep = torch.zeros(shape, device=device)

    def apply(self, scores: Tensor, stage: int) -> None:
        """Judge the tokens at the ``stage``-th stage by their scores, float ``(rows, length)``."""
        candidates = self.alive & (self.forced <= stage)
        quota = self.kept[:, stage] - (self.alive & ~candidates).sum(-1)
        logits = self._noisy(_standardised(scores, candidates) * self.config.sharpness)
        margin = (logits - _threshold(logits.detach(), candidates, quota)) / self.config.temperature
        # a key below this has no effect; clamped to keep gradients finite
        verdict = functional.logsigmoid(margin).clamp_min(-30.0)
        if self.config.straight_through:
            hard = torch.where(margin > 0, 0.0, -30.0)
            verdict = verdict + (hard - verdict).detach()
        self.log_keep = self.log_keep + torch.where(candidates, verdict, 0.0)
        self.alive = self.alive & ~(candidates & (margin.detach() <= 0))

    def alive_share(self) -> Tensor:
        """Compute the share of prunable tokens that is alive, float32 ``(rows,)``; NaN where a row has no prunable token."""
        return (self.prunable & self.alive).sum(-1) / self.prunable.sum(-1)

    def _noisy(self, logits: Tensor) -> Tensor:
        """Add logistic noise, the difference of two Gumbel variables. It is drawn on the CPU, so every device gets the same."""
        if not self.config.noise:
            return logits
        uniform = torch.rand(logits.shape).clamp(1e-6, 1 - 1e-6)
        return logits + torch.logit(uniform).to(logits.device)


def _standardised(scores: Tensor, candidates: Tensor) -> Tensor:
    """Shift and scale the scores of each row to zero mean and unit variance over its candidates."""
    count = candidates.sum(-1, keepdim=True).clamp_min(1)
    centred = scores - scores.where(candidates, 0.0).sum(-1, keepdim=True) / count
    variance = (centred.where(candidates, 0.0) ** 2).sum(-1, keepdim=True) / count
    return centred / (variance + _SMALLEST_VARIANCE).sqrt()


def _threshold(logits: Tensor, candidates: Tensor, quota: Tensor) -> Tensor:
    """Find the value that ``quota`` of the candidates exceed, midway between the last kept and the first dropped: ``(rows, 1)``."""
    ordered = logits.masked_fill(~candidates, -torch.inf).sort(-1, descending=True).values
    last_in = ordered.gather(-1, (quota - 1).clamp_min(0)[..., None])
    first_out = ordered.gather(-1, quota.clamp_max(ordered.shape[-1] - 1)[..., None])
    nothing, everything = (quota == 0)[..., None], (quota >= candidates.sum(-1))[..., None]
    middle = torch.where(nothing, last_in + 1.0, (last_in + first_out) / 2)
    return torch.where(everything, ordered.new_tensor(-1e4), middle)
