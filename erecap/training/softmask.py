"""Pruning made differentiable: soft verdicts on tokens as a bias on attention logits.

Hard pruning takes dropped tokens away as KEYS of later layers. Softly: a token that is kept with probability m gets log(m) added to
its attention logits in the layers after the stage (0 for 1, -inf for 0); the residual stream is never scaled.

Whole episodes are trained on at once, so the bias depends on the query too. A query that belongs to replan t sees softened what
the engine could have dropped in that replan's prompt: tokens of earlier turns, outside the head and the tail that the schedule
guards. Its own turn (the latest observation) and protected tokens it sees whole. How many are kept follows from the schedule, per
replan: the verdict compares a token's noisy score with the value that the schedule's share of the CURRENT length leaves above it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from erecap.schedule import PruneSchedule
from erecap.training.data import Batch

_FORBIDDEN = -1e9


@dataclass(frozen=True)
class MaskConfig:
    """Gumbel-softmax over {keep, drop}. Logits are ``sharpness`` x score (scores have about unit variance), so that noise does not
    drown them; ``temperature`` divides logits and noise. ``straight_through``: the forward pass uses the hard verdict."""

    temperature: float = 1.0
    sharpness: float = 4.0
    noise: bool = True
    straight_through: bool = False

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.sharpness <= 0:
            raise ValueError(f"temperature={self.temperature} and sharpness={self.sharpness} must be positive")


def turn_ends(turns: Tensor, lengths: Tensor) -> Tensor:
    """int64 [rows, turns]: one past the last token of each turn, 0 for a turn that a row does not have."""
    rows, length = turns.shape
    position = torch.arange(length, device=turns.device)
    real = (position < lengths[:, None]) & (turns >= 0)
    ends = torch.zeros(rows, int(turns.max().clamp_min(0)) + 1, dtype=torch.int64, device=turns.device)
    return ends.scatter_reduce(1, turns.clamp_min(0), torch.where(real, position + 1, 0), "amax")


def prunable(batch: Batch, schedule: PruneSchedule) -> Tensor:
    """bool [rows, turns, length]: whether the engine may drop the token from the prompt of that turn's replan."""
    ends = turn_ends(batch.turns, batch.lengths)
    position = torch.arange(batch.turns.shape[1], device=ends.device)
    tail = torch.clamp_min((ends * schedule.tail_share + 0.5).long(), schedule.tail_min)
    number = torch.arange(ends.shape[1], device=ends.device)
    earlier = (batch.turns[:, None] >= 0) & (batch.turns[:, None] < number[:, None])
    return earlier & (position >= schedule.head) & (position < (ends - tail)[..., None])


class SoftMask:
    """The verdicts of one batch, stage by stage."""

    def __init__(self, batch: Batch, schedule: PruneSchedule, config: MaskConfig) -> None:
        self.batch, self.schedule, self.config = batch, schedule, config
        self.candidates = prunable(batch, schedule)
        self.alive = self.candidates
        self.ends = turn_ends(batch.turns, batch.lengths)
        self.log_keep = torch.zeros(self.candidates.shape, device=batch.turns.device)

    def apply(self, scores: Tensor, keep: float) -> None:
        """Take a stage's scores, float [rows, length], and its share to keep of what is left."""
        logits = self._noisy(scores * self.config.sharpness)[:, None].expand(self.candidates.shape)
        margin = (logits - _threshold(logits.detach(), self.alive, self._quota(keep))) / self.config.temperature
        # clamped: below this a key is as good as gone, and gradients stay finite
        verdict = functional.logsigmoid(margin).clamp_min(-30.0)
        if self.config.straight_through:
            hard = torch.where(margin > 0, 0.0, -30.0)
            verdict = verdict + (hard - verdict).detach()
        self.log_keep = self.log_keep + torch.where(self.candidates, verdict, 0.0)
        self.alive = self.alive & (margin.detach() > 0)

    def bias(self) -> Tensor:
        """float [rows, 1, length, length]: log keep probabilities for each query's turn, and no look ahead."""
        length = self.batch.turns.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=self.log_keep.device).triu(1)
        # protected tokens as queries come before everything that may be dropped, or are read as turn 0, which sees all
        rows = [row.index_select(0, turn.clamp_min(0)) for row, turn in zip(self.log_keep, self.batch.turns, strict=True)]
        return torch.stack(rows).masked_fill(future, _FORBIDDEN)[:, None]

    def kept_share(self) -> tuple[Tensor, Tensor]:
        """(sum, count) over replans that could drop something: share of their prunable tokens that are alive."""
        total = self.candidates.sum(-1)
        share = self.alive.sum(-1)[total > 0] / total[total > 0]
        return share.sum(), (total > 0).sum()

    def _quota(self, keep: float) -> Tensor:
        """int64 [rows, turns]: how many of the prunable tokens that are left a replan keeps at this stage."""
        forced = self.ends - self.candidates.sum(-1)
        current = forced + self.alive.sum(-1)
        return ((current * keep + 0.5).long() - forced).clamp_min(0)

    def _noisy(self, logits: Tensor) -> Tensor:
        """Plus the difference of two Gumbel variables, which is logistic; drawn on the CPU, so that a seed means one thing."""
        if not self.config.noise:
            return logits
        uniform = torch.rand(logits.shape).clamp(1e-6, 1 - 1e-6)
        return logits + torch.logit(uniform).to(logits.device)


def _threshold(logits: Tensor, alive: Tensor, quota: Tensor) -> Tensor:
    """float [rows, turns, 1]: the value that ``quota`` of the tokens alive exceed, midway between the last in and the first out."""
    ordered = logits.masked_fill(~alive, -torch.inf).sort(-1, descending=True).values
    count = alive.sum(-1)
    last_in = ordered.gather(-1, (quota - 1).clamp_min(0)[..., None])
    first_out = ordered.gather(-1, quota.clamp_max(ordered.shape[-1] - 1)[..., None])
    nothing, everything = (quota == 0)[..., None], (quota >= count)[..., None]
    middle = torch.where(nothing, last_in + 1.0, (last_in + first_out) / 2)
    return torch.where(everything, ordered.new_tensor(-1e4), middle)
