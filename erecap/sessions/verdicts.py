"""The verdicts on tokens: how many stages each survives by the schedule's rule, whatever protects it for now.

A verdict depends on the scores of one chunk (``chunk_top_k``) or of one token (``threshold``), so it never changes because of what
comes later, and it can be recorded while the token is protected.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erecap.engine.selection import above, chunk_top_k
from erecap.schedule import PruneSchedule, PruneStage
from erecap.schedule.counts import chunk_numbers, share_of


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on the tokens that a session holds.

    Attributes
    ----------
    survived
        Stages that each token survives, int64 ``(tokens,)``; the number of stages for a token that no stage drops.
    settled
        Number of first tokens with a verdict. The others are the beginning of a chunk that is not complete; all layers hold them.
    scores
        Scores of the tokens without a verdict, float32 ``(stages, tokens - settled)``.
    """

    survived: NDArray[np.int64]
    settled: int
    scores: Tensor

    @classmethod
    def none(cls, stages: int, device: torch.device) -> "Verdicts":
        """Make the verdicts of a session that holds nothing."""
        return cls(np.zeros(0, np.int64), 0, torch.zeros(stages, 0, device=device))

    def crop(self, tokens: int) -> "Verdicts":
        """Return the verdicts on the first ``tokens`` tokens."""
        settled = min(self.settled, tokens)
        return Verdicts(self.survived[:tokens], settled, self.scores[:, : tokens - settled])

    def append(self, scores: Tensor) -> "Verdicts":
        """Return the verdicts with tokens more that have none, by their scores, float32 ``(stages, new)``."""
        survived = np.concatenate([self.survived, np.zeros(scores.shape[1], np.int64)])
        return Verdicts(survived, self.settled, torch.cat([self.scores, scores], dim=1))


class Judging:
    """The course of one run of new tokens through the stages, up to new verdicts.

    Parameters
    ----------
    schedule
        The stages and their rule.
    before
        Verdicts on the tokens that are not run.
    segment_ends
        Ends of the new prompt's messages.
    forced
        Tokens of the new prompt that no stage may drop now, bool ``(tokens,)``.
    until
        End of the tokens that get a verdict; the tokens from here on begin a chunk that is not complete.
    """

    def __init__(
        self, schedule: PruneSchedule, before: Verdicts, segment_ends: tuple[int, ...], forced: NDArray[np.bool_], until: int
    ) -> None:
        self._schedule, self._forced = schedule, forced
        self._old, self._new = before.scores, list[Tensor]()
        self._begin, self._until = before.settled, until
        self._chunks = chunk_numbers(len(forced), segment_ends)[self._begin : until]
        self.start = len(before.survived)
        self.survived = np.concatenate([before.survived, np.zeros(len(forced) - self.start, np.int64)])
        self.at_once = bool(schedule.stages) and not forced[self._begin :].all()
        """Whether tokens may be dropped on the way, so that the host must know each stage's verdicts at once."""

    def take(self, scores: Tensor, alive: NDArray[np.int64]) -> None:
        """Take the next stage's scores of the new tokens that reach it, float32 ``(alive,)``, and their positions."""
        row = scores.to(self._old.device)
        if len(alive) < len(self._forced) - self.start:
            row = row.new_full((len(self._forced) - self.start,), torch.nan)
            row[torch.from_numpy(alive - self.start).to(row.device)] = scores.to(row.device)
        self._new.append(row)
        if self.at_once:
            stage = len(self._new) - 1
            self._settle(stage, torch.cat([self._old[stage], row]).cpu())

    def stays(self, stage: int) -> NDArray[np.bool_]:
        """Mark the tokens that go on behind a stage: those that survive it, and those that are forced; bool ``(tokens,)``."""
        return self._forced | (self.survived > stage)

    def close(self) -> Verdicts:
        """Return the verdicts after the last stage."""
        scores = (
            torch.cat([self._old, torch.stack(self._new)], dim=1)
            if self._new
            else self._old.new_zeros(0, len(self._forced) - self._begin)
        )
        if not self.at_once:
            for stage, row in enumerate(scores.cpu()):  # the host waits for the device once
                self._settle(stage, row)
        return Verdicts(self.survived, self._until, scores[:, self._until - self._begin :])

    def _settle(self, stage: int, scores: Tensor) -> None:
        """Count the stage for the tokens that survive it, among those that survived all before; ``scores`` on the host."""
        alive = np.flatnonzero(self.survived[self._begin : self._until] == stage)
        if len(alive):
            chosen = _survive(self._schedule, self._schedule.stages[stage], scores[alive], self._begin + alive, self._chunks[alive])
            self.survived[self._begin + alive[chosen]] += 1


def _survive(
    schedule: PruneSchedule, stage: PruneStage, scores: Tensor, positions: NDArray[np.int64], chunks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the columns of the tokens that survive a stage; scores, positions and chunk of each, in order of positions."""
    forced = torch.from_numpy(positions < schedule.head)[None]
    if schedule.rule == "threshold":
        assert stage.tau is not None, "the schedule has checked it"
        return np.flatnonzero(above(scores[None], forced, stage.tau)[0].numpy())
    _, numbers = np.unique(chunks, return_inverse=True)
    before, guarded = np.bincount(numbers), np.bincount(numbers, positions < schedule.head).astype(np.int64)
    kept = guarded + np.array([share_of(free, stage.keep) for free in (before - guarded).tolist()], np.int64)
    number, start, count = (torch.from_numpy(table)[None] for table in (numbers, np.cumsum(before) - before, kept))
    columns: NDArray[np.int64] = chunk_top_k(scores[None], forced, number, start, count, int(kept.sum()))[0].numpy()
    return columns
