"""Pruning made differentiable: soft verdicts on tokens as a bias on attention logits.

Hard pruning removes dropped tokens from the keys of later layers. Soft pruning adds log(m) to the attention logits of a token that
is kept with probability m, in the layers after the stage: 0 for m = 1, -inf for m = 0. The residual stream is not scaled.

One replan per episode is played at a time, as the engine would prefill it: the same prompt, the same guarded tokens, as many kept
tokens at each stage. A dropped token is dropped for every query of the deeper layers, those of earlier turns included. The
verdict compares a token's noisy score with a threshold, which as many scores exceed as the stage keeps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from erecap.schedule import PruneSchedule, forced_stages, stage_counts
from erecap.training.batches import Batch, later_plans
from erecap.training.sequences import ALWAYS_KEPT, NO_REPLAN

_FORBIDDEN = -1e9


@dataclass(frozen=True)
class MaskConfig:
    """Gumbel-softmax over {keep, drop}: how soft the verdicts are.

    Attributes
    ----------
    temperature
        Divides logits and noise.
    sharpness
        Logits are ``sharpness`` x score. Without it, noise would drown scores of unit variance, at which the squared error to
        saliency aims.
    noise
        Whether to add Gumbel noise.
    straight_through
        Whether the forward pass uses the hard verdict; the backward pass uses the soft one.

    Raises
    ------
    ValueError
        For a temperature or sharpness that is not positive.
    """

    temperature: float = 1.0
    sharpness: float = 4.0
    noise: bool = True
    straight_through: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.sharpness <= 0:
            raise ValueError(f"temperature={self.temperature} and sharpness={self.sharpness} must be positive")


@dataclass(frozen=True)
class Replans:
    """One replan per row. A row without a replan that could drop something has no targets.

    Attributes
    ----------
    batch
        The rows, cut after the end of the longest replan. Weights are 1 on targets and 0 elsewhere.
    prompts
        int64 ``(rows,)``: length of the prompt that the plan answers, in tokens.
    turns
        int64 ``(rows,)``: the replan's turn, or ``NO_REPLAN``.
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
        "plan" makes the plan's tokens the targets, "all" every token up to its end, as in training a language model.
    """
    spans = [_draw_span(row, turns) for row, turns in zip(later_plans(batch).cpu(), batch.turns.cpu(), strict=True)]
    longest, device = max(end for _, end, _ in spans), batch.turns.device
    starts, ends, numbers = (torch.tensor(column, device=device) for column in zip(*spans, strict=True))
    column = torch.arange(longest, device=device)
    inside = column < ends[:, None]
    wanted = inside & (column >= starts[:, None]) if targets == "plan" else inside & (numbers[:, None] != NO_REPLAN)
    turns = torch.where(inside, batch.turns[:, :longest], ALWAYS_KEPT)
    cut = Batch(batch.input_ids[:, :longest], wanted.float(), turns, batch.targets[:, :longest], ends, batch.indices)
    return Replans(cut, starts, numbers)


def _draw_span(targets: Tensor, turns: Tensor) -> tuple[int, int, int]:
    """Draw a plan of one row: (first token, one past the last, turn)."""
    found = torch.unique(turns[targets])
    if not len(found):
        return 1, 1, NO_REPLAN
    turn = int(found[torch.randint(len(found), ())])
    places = (targets & (turns == turn)).nonzero().flatten()
    gaps = (places.diff() > 1).nonzero().flatten()  # a plan that could not be read is followed by another in the same turn
    last = places[gaps[0]] if len(gaps) else places[-1]
    return int(places[0]), int(last) + 1, turn


class SoftMask:
    """The verdicts on the tokens of one batch of replans, stage by stage.

    Parameters
    ----------
    replans
        One replan per row.
    schedule
        Says which tokens no stage may drop, and how many each stage keeps.
    config
        How soft the verdicts are.

    Attributes
    ----------
    alive
        bool ``(rows, length)``: prompt tokens that no stage so far has dropped, by the hard verdict.
    prunable
        bool ``(rows, length)``: tokens that some stage may drop.
    log_keep
        float32 ``(rows, length)``: log of the probability that no stage so far has dropped the token.
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
        logits = self._noisy(scores * self.config.sharpness)
        margin = (logits - _threshold(logits.detach(), candidates, quota)) / self.config.temperature
        # below this a key has no effect; clamped, so that gradients stay finite
        verdict = functional.logsigmoid(margin).clamp_min(-30.0)
        if self.config.straight_through:
            hard = torch.where(margin > 0, 0.0, -30.0)
            verdict = verdict + (hard - verdict).detach()
        self.log_keep = self.log_keep + torch.where(candidates, verdict, 0.0)
        self.alive = self.alive & ~(candidates & (margin.detach() <= 0))

    def bias(self) -> Tensor:
        """Make the attention bias: each key's log keep probability, causal, float32 ``(rows, 1, length, length)``."""
        length = self.log_keep.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=self.log_keep.device).triu(1)
        return self.log_keep[:, None, None, :].masked_fill(future, _FORBIDDEN)

    def kept_share(self) -> tuple[Tensor, Tensor]:
        """Return (sum, count) over replans with prunable tokens of the share of these that is alive."""
        total = self.prunable.sum(-1)
        share = (self.prunable & self.alive).sum(-1)[total > 0] / total[total > 0]
        return share.sum(), (total > 0).sum()

    def _noisy(self, logits: Tensor) -> Tensor:
        """Add the difference of two Gumbel variables, which is logistic. Drawn on the CPU: the same on every device."""
        if not self.config.noise:
            return logits
        uniform = torch.rand(logits.shape).clamp(1e-6, 1 - 1e-6)
        return logits + torch.logit(uniform).to(logits.device)


def _threshold(logits: Tensor, candidates: Tensor, quota: Tensor) -> Tensor:
    """Find the value that ``quota`` of the candidates exceed, midway between the last kept and the first dropped: ``(rows, 1)``."""
    ordered = logits.masked_fill(~candidates, -torch.inf).sort(-1, descending=True).values
    last_in = ordered.gather(-1, (quota - 1).clamp_min(0)[..., None])
    first_out = ordered.gather(-1, quota.clamp_max(ordered.shape[-1] - 1)[..., None])
    nothing, everything = (quota == 0)[..., None], (quota >= candidates.sum(-1))[..., None]
    middle = torch.where(nothing, last_in + 1.0, (last_in + first_out) / 2)
    return torch.where(everything, ordered.new_tensor(-1e4), middle)
