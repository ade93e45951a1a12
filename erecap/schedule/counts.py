"""How many tokens of a prompt survive each stage: exact arithmetic on the host, before any layer has run.

For ``top_k`` and ``chunk_top_k`` the counts follow from the schedule and the prompt alone, so the engine needs no host-device
synchronisation. For ``threshold`` they depend on the scores; then only the forced tokens are known here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from erecap.schedule.stages import PruneStage, Rule, check_depth


class CountedSchedule(Protocol):
    """The fields of a ``PruneSchedule`` that the counts read."""

    @property
    def stages(self) -> tuple[PruneStage, ...]:
        """Stages in the order of layers."""
        ...

    @property
    def head(self) -> int:
        """Number of first tokens that are always kept."""
        ...

    @property
    def tail_min(self) -> int:
        """Smallest number of last tokens that are always kept."""
        ...

    @property
    def tail_share(self) -> float:
        """Share of the current length that is always kept at the end, in [0, 1]."""
        ...

    @property
    def rule(self) -> Rule:
        """Rule by which stages choose."""
        ...


@dataclass(frozen=True)
class StageCount:
    """Tokens of one prompt at one stage.

    Attributes
    ----------
    before
        Tokens that reach the stage.
    tail
        Last tokens that the stage must keep.
    forced
        All tokens that the stage must keep: head, tail and protected ones.
    kept
        Tokens that survive the stage, forced ones included.
    """

    before: int
    tail: int
    forced: int
    kept: int


@dataclass(frozen=True)
class ChunkCount:
    """Tokens of one prompt at one stage of ``chunk_top_k``, chunk by chunk.

    Attributes
    ----------
    before
        Tokens of each chunk that reach the stage, int64 ``(chunks,)``.
    tail
        Last tokens of the prompt that the stage must keep.
    forced
        Tokens of each chunk that the stage must keep, int64 ``(chunks,)``.
    kept
        Tokens of each chunk that survive the stage, int64 ``(chunks,)``.
    """

    before: NDArray[np.int64]
    tail: int
    forced: NDArray[np.int64]
    kept: NDArray[np.int64]

    def total(self) -> StageCount:
        """Sum over the chunks."""
        return StageCount(int(self.before.sum()), self.tail, int(self.forced.sum()), int(self.kept.sum()))


class Guards:
    """The tokens of one prompt that the stages of a schedule must keep: its head, its tail and its protected tokens.

    The tail never grows from stage to stage, and all earlier stages kept it. So it always consists of the last tokens of the
    original prompt, and the forced tokens of any stage can be counted on the mask of the prompt.

    Parameters
    ----------
    schedule
        Gives head and tail.
    protected
        Mask of the prompt's protected tokens, bool ``(tokens,)``.
    """

    def __init__(self, schedule: CountedSchedule, protected: NDArray[np.bool_]) -> None:
        self._schedule, self._length = schedule, len(protected)
        self._always = protected.copy()
        self._always[: schedule.head] = True
        self._up_to = np.concatenate(([0], np.cumsum(self._always)))

    def tail(self, current: int) -> int:
        """Count the guarded last tokens where ``current`` tokens are left."""
        return min(current, max(self._schedule.tail_min, share_of(current, self._schedule.tail_share)))

    def forced(self, current: int) -> int:
        """Count the forced tokens where ``current`` tokens are left: the union of head, tail and protected ones."""
        tail = self.tail(current)
        return int(self._up_to[self._length - tail]) + tail

    def mask(self, tail: int) -> NDArray[np.bool_]:
        """Mark the tokens of the prompt that are forced where its last ``tail`` are guarded: bool ``(tokens,)``."""
        mask = self._always.copy()
        mask[self._length - tail :] = True
        return mask


@dataclass(frozen=True)
class PromptCounts:
    """The counts of one prompt at the stages of a schedule that are known before it runs.

    Attributes
    ----------
    guards
        The tokens that stages must keep.
    stages
        Counts at each stage; ``None`` for ``threshold``, where they depend on the scores.
    chunks
        Counts at each stage chunk by chunk; empty unless the rule is ``chunk_top_k``.
    num_stages
        Number of stages.
    """

    guards: Guards
    stages: tuple[StageCount, ...] | None
    chunks: tuple[ChunkCount, ...]
    num_stages: int

    def forced_stages(self) -> NDArray[np.int64]:
        """Count for each token the leading stages that must keep it, int64 ``(tokens,)``.

        A token is forced at stage ``s`` if its number exceeds ``s``. One number is enough, because the set of forced tokens only
        shrinks: head and protected tokens are forced at every stage, and a token of the tail at the stages whose tail still
        includes it. For ``threshold`` the tail is left out, since it depends on lengths that are not known yet.
        """
        through = np.where(self.guards.mask(0), self.num_stages, 0).astype(np.int64)
        for index, count in enumerate(self.stages or ()):
            last = through[len(through) - count.tail :]
            np.maximum(last, index + 1, out=last)
        return through


def count_prompt(schedule: CountedSchedule, protected: NDArray[np.bool_], segment_ends: Sequence[int] = ()) -> PromptCounts:
    """Count the tokens of one prompt at every stage of ``schedule``.

    Parameters
    ----------
    schedule
        The stages, their rule and their guards.
    protected
        Mask of the prompt's protected tokens, bool ``(tokens,)``.
    segment_ends
        Index one past the last token of each message, used by ``chunk_top_k`` only.
    """
    guards = Guards(schedule, protected)
    chunks = chunk_counts(schedule, protected, segment_ends) if schedule.rule == "chunk_top_k" else ()
    stages = tuple(count.total() for count in chunks)
    if schedule.rule == "top_k":
        stages = _top_k_counts(schedule, guards, len(protected))
    return PromptCounts(guards, None if schedule.rule == "threshold" else stages, chunks, len(schedule.stages))


def stage_counts(
    schedule: CountedSchedule, protected: NDArray[np.bool_], segment_ends: Sequence[int] = ()
) -> tuple[StageCount, ...]:
    """Count the tokens of one prompt at every stage; parameters as in ``count_prompt``.

    ``top_k`` keeps ``max(round(keep * current), forced)`` tokens.

    Raises
    ------
    ValueError
        For the rule ``threshold``, whose counts depend on the scores.
    """
    counts = count_prompt(schedule, protected, segment_ends).stages
    if counts is None:
        raise ValueError("what rule 'threshold' keeps depends on the scores: read it from PrefillResult.layer_tokens")
    return counts


def chunk_counts(schedule: CountedSchedule, protected: NDArray[np.bool_], segment_ends: Sequence[int]) -> tuple[ChunkCount, ...]:
    """Count the tokens of one prompt at every stage of ``chunk_top_k``, chunk by chunk; parameters as in ``count_prompt``.

    A prompt has ``len(segment_ends) + 1`` chunks, of which some may be empty. A chunk keeps
    ``forced + round(keep * (before - forced))`` tokens. The share applies to the tokens that are not forced, so their number does
    not depend on how many tokens of the chunk are forced.
    """
    guards, chunks = Guards(schedule, protected), chunk_numbers(len(protected), segment_ends)
    before = np.bincount(chunks, minlength=len(segment_ends) + 1)
    counts = []
    for stage in schedule.stages:
        tail = guards.tail(int(before.sum()))
        forced = np.bincount(chunks[guards.mask(tail)], minlength=len(before))
        kept = forced + np.array([share_of(free, stage.keep) for free in (before - forced).tolist()], np.int64)
        counts.append(ChunkCount(before, tail, forced, kept))
        before = kept
    return tuple(counts)


def chunk_numbers(length: int, segment_ends: Sequence[int]) -> NDArray[np.int64]:
    """Assign each of ``length`` tokens to a chunk, int64 ``(length,)``: one per message, and one for the answer's header."""
    return np.searchsorted(np.asarray(segment_ends, np.int64), np.arange(length), side="right")


def forced_stages(schedule: CountedSchedule, protected: NDArray[np.bool_], segment_ends: Sequence[int] = ()) -> NDArray[np.int64]:
    """Count for each token the leading stages that must keep it: ``PromptCounts.forced_stages``, int64 ``(tokens,)``."""
    return count_prompt(schedule, protected, segment_ends).forced_stages()


def layer_tokens(
    schedule: CountedSchedule, num_layers: int, protected: NDArray[np.bool_], segment_ends: Sequence[int] = ()
) -> tuple[int, ...]:
    """Count the tokens of one prompt that enter each of ``num_layers`` layers; the other parameters as in ``count_prompt``.

    Raises
    ------
    ValueError
        For the rule ``threshold``, or a stage that has no layer after it.
    """
    check_depth(schedule.stages, num_layers)
    counts = stage_counts(schedule, protected, segment_ends)
    kept = {stage.after_layer: count.kept for stage, count in zip(schedule.stages, counts, strict=True)}
    return spread_over_layers(len(protected), kept, num_layers)


def spread_over_layers(length: int, kept: Mapping[int, int], num_layers: int) -> tuple[int, ...]:
    """Count the tokens that enter each layer, for ``length`` prompt tokens of which ``kept[l]`` are left after layer ``l``."""
    tokens = [length]
    for layer in range(num_layers - 1):
        tokens.append(kept.get(layer, tokens[-1]))
    return tuple(tokens)


def share_of(length: int, share: float) -> int:
    """Return ``share`` of ``length`` tokens as a whole number, halves rounded up."""
    return int(length * share + 0.5)


def _top_k_counts(schedule: CountedSchedule, guards: Guards, current: int) -> tuple[StageCount, ...]:
    counts = []
    for stage in schedule.stages:
        forced = guards.forced(current)
        kept = max(share_of(current, stage.keep), forced)
        counts.append(StageCount(current, guards.tail(current), forced, kept))
        current = kept
    return tuple(counts)
