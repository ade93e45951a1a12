"""Where tokens are dropped and how many: the schedule, and the counts that follow from it.

Everything here is host arithmetic on lengths. No tensor, model or device: the counts of a prefill by ``top_k`` or ``chunk_top_k``
are known before it starts, which is what lets the engine run without a host-device synchronisation and lets the ceiling be computed
from them. What a ``threshold`` keeps depends on scores and is known stage by stage.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Rule = Literal["top_k", "chunk_top_k", "threshold"]

SEED_DEPTH = 28
SEED_LAYERS = tuple(range(4, SEED_DEPTH - 2, 3))
PRESETS = {"keep09": 0.9, "keep08": 0.8, "keep07": 0.7}


@dataclass(frozen=True)
class PruneStage:
    """Drop tokens after layer ``after_layer`` (from 0): of those that reached it, the share ``keep`` enters the next layer.

    ``tau`` is what the rule ``threshold`` compares scores with, calibrated to keep the share ``keep`` on average
    (``erecap.calibration.thresholds``); the other rules do not read it.
    """

    after_layer: int
    keep: float
    tau: float | None = None

    def __post_init__(self) -> None:
        if self.after_layer < 0:
            raise ValueError(f"after_layer={self.after_layer} must not be negative: layers are counted from 0")
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep={self.keep} must be in (0, 1]: give the share of tokens to keep, such as 0.7")
        if self.tau is not None and math.isnan(self.tau):
            raise ValueError("tau=nan is below no score: give a number, such as `erecap calibrate` finds")


@dataclass(frozen=True)
class PruneSchedule:
    """Stages in the order of layers, and what no stage may drop.

    The first ``head`` tokens and the last ``max(tail_min, tail_share * current length)`` are always kept, as are protected ones
    (after SDTP, arXiv 2504.04514): they are *forced*. ``rule`` names how the others are chosen, of what has reached a stage:

    - ``top_k``: ``round(keep * current)`` tokens, forced ones among them, the rest by score.
    - ``chunk_top_k``: in each chunk, a message of the prompt, the best ``round(keep * those not forced)``; forced ones come on top.
    - ``threshold``: those that score above the stage's ``tau``; forced ones come on top.

    By the last two a token's verdict depends on nothing outside its chunk, so that it stands when the prompt is extended. A tail
    that is a share of the length would undo that, since it reaches further back the longer the prompt is: ``by_rule`` turns it off.
    """

    stages: tuple[PruneStage, ...] = ()
    head: int = 4
    tail_min: int = 16
    tail_share: float = 0.10
    rule: Rule = "top_k"

    def __post_init__(self) -> None:
        parse_rule(self.rule)
        layers = list(self.layers)
        if layers != sorted(set(layers)):
            raise ValueError(f"stages after layers {layers} are not in strictly rising order: give each layer once, in order")
        if self.head < 0:
            raise ValueError(f"head={self.head} must not be negative: use 0 to guard no token at the start")
        if self.tail_min < 1:
            raise ValueError(
                f"tail_min={self.tail_min} must be at least 1: the answer is read off the last token, which no stage may drop"
            )
        if not 0.0 <= self.tail_share <= 1.0:
            raise ValueError(f"tail_share={self.tail_share} must be in [0, 1]: give a share of the current length, such as 0.1")
        untold = [stage.after_layer for stage in self.stages if stage.tau is None]
        if self.rule == "threshold" and untold:
            raise ValueError(
                f"rule 'threshold' needs a tau at every stage, those after layers {untold} have none: fit them with "
                "`erecap calibrate`, or give PruneStage(after_layer, keep, tau)"
            )

    @classmethod
    def none(cls) -> "PruneSchedule":
        """The empty schedule, which is the baseline: every token enters every layer."""
        return cls()

    @classmethod
    def after(cls, layers: Iterable[int], keep: float) -> "PruneSchedule":
        """A stage after each of ``layers``, all of one ``keep``."""
        return cls(tuple(PruneStage(layer, keep) for layer in layers))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers after which the stages come."""
        return tuple(stage.after_layer for stage in self.stages)

    @classmethod
    def for_depth(cls, num_layers: int, keep: float) -> "PruneSchedule":
        """The seed's schedule for a model of ``num_layers`` layers.

        For 28 layers the stages are those of the seed, after layers ``range(4, 26, 3)``. For other depths each is moved to
        ``round(layer * num_layers / 28)`` (halves up); what falls together counts once, and a stage after the last layer, which
        would drop nothing, is left out.
        """
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers} must be at least 1: give the depth of the model")
        scaled = sorted({(2 * layer * num_layers + SEED_DEPTH) // (2 * SEED_DEPTH) for layer in SEED_LAYERS})
        return cls.after((layer for layer in scaled if layer < num_layers - 1), keep)

    @classmethod
    def preset(cls, name: str, num_layers: int) -> "PruneSchedule":
        """A preset of the seed: ``keep09``, ``keep08`` or ``keep07``."""
        if name not in PRESETS:
            raise ValueError(f"preset {name!r} is not known: the presets are {', '.join(PRESETS)}")
        return cls.for_depth(num_layers, PRESETS[name])

    def with_keep(self, keep: float) -> "PruneSchedule":
        """The same stages and guards with another keep ratio at every stage."""
        return replace(self, stages=tuple(replace(stage, keep=keep) for stage in self.stages))

    @classmethod
    def of_stages(cls, stages: str | None, num_layers: int, keep: float) -> "PruneSchedule":
        """Stages after the layers that ``stages`` names (see ``parse_stages``), or the seed's for ``None``; all of one ``keep``."""
        if stages is None:
            return cls.for_depth(num_layers, keep)
        schedule = cls.after(parse_stages(stages), keep)
        schedule.check_depth(num_layers)
        return schedule

    def by_rule(self, rule: Rule, taus: Sequence[float] = ()) -> "PruneSchedule":
        """The same stages by another rule; ``threshold`` takes one of ``taus`` per stage.

        Rules whose verdicts must stand when the prompt is extended guard ``tail_min`` tokens at its end and no share of it.
        """
        if taus and len(taus) != len(self.stages):
            raise ValueError(f"{len(taus)} taus for {len(self.stages)} stages: give one per stage")
        stages = tuple(replace(stage, tau=tau) for stage, tau in zip(self.stages, taus, strict=True)) if taus else self.stages
        return replace(self, rule=rule, stages=stages, tail_share=self.tail_share if rule == "top_k" else 0.0)

    @classmethod
    def for_budget(
        cls,
        num_layers: int,
        cost: Callable[[Sequence[int]], float],
        budget: float,
        prompt: int | NDArray[np.bool_],
        stages: Sequence[int] | None = None,
    ) -> "PruneSchedule":
        """The schedule that drops least among those for which ``cost(layer_tokens)`` is at most ``budget``.

        ``cost`` is ``CostModel.late_replan_s`` for seconds, ``costs.flops_cost(config)`` for FLOPs. ``prompt`` is its length, or
        the mask of its protected tokens, bool ``(tokens,)``. What is tried is said at ``budget.choose_schedule``. Raises
        ``BudgetError`` where even the cheapest schedule costs more.
        """
        from erecap.calibration.search import schedule_for_budget  # it makes schedules, so it imports this module

        return schedule_for_budget(num_layers, cost, budget, prompt, stages)

    def __str__(self) -> str:
        """Stages and ratios in short, as in the backend spec: ``1-6@0.62``, ``0+2-4@0.9,5@0.5``, or ``none``."""
        groups = groupby(self.stages, key=lambda stage: stage.keep)
        return ",".join(f"{format_stages(stage.after_layer for stage in group)}@{keep:g}" for keep, group in groups) or "none"

    def check_depth(self, num_layers: int) -> None:
        """Raise ``ValueError`` unless every stage has a layer after it in a model of ``num_layers`` layers."""
        if self.stages and self.stages[-1].after_layer >= num_layers - 1:
            raise ValueError(
                f"a stage after layer {self.stages[-1].after_layer} does not fit a model of {num_layers} layers, where the last "
                f"stage can follow layer {num_layers - 2}: make the schedule with PruneSchedule.for_depth({num_layers}, keep)"
            )


def parse_rule(text: str) -> Rule:
    """The rule of that name. Raises ``ValueError`` for another."""
    for rule in get_args(Rule):
        if text == rule:
            return rule  # type: ignore[no-any-return]  # get_args forgets what the literals are
    raise ValueError(f"rule {text!r} is not known: the rules are {', '.join(get_args(Rule))}")


def parse_stages(text: str) -> tuple[int, ...]:
    """Layers after which to prune, written ``0-5``, ``0+2+4``, or both: ``0+3-5``. Raises ``ValueError`` for other text."""
    layers: list[int] = []
    for part in text.split("+"):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"stages={text!r} are not layers: write them like 0-5 or 0+2+4")
        if int(last or first) < int(first):
            raise ValueError(f"stages={text!r} has a range that ends before it begins: write {last}-{first}")
        layers.extend(range(int(first), int(last or first) + 1))
    return tuple(layers)


def format_stages(layers: Iterable[int]) -> str:
    """Layers in rising order as ``parse_stages`` reads them: ``0+3-5``."""
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0])]
    return "+".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


@dataclass(frozen=True)
class StageCount:
    """What one stage does to one sequence, in tokens: how many reach it, are forced to survive (of them the tail), and survive."""

    before: int
    tail: int
    forced: int
    kept: int


def share_of(length: int, share: float) -> int:
    """``share`` of ``length`` tokens, rounded to the nearest whole token, halves up. Rising in ``length`` for a fixed share."""
    return int(length * share + 0.5)


class Guards:
    """What the stages of ``schedule`` must keep of one prompt; ``protected`` is its mask, bool ``(tokens,)``.

    The device need not be asked: a tail never grows from stage to stage and was forced before, so it always consists of the last
    tokens of the ORIGINAL prompt, and how many protected ones lie outside head and tail can be counted on the mask.
    """

    def __init__(self, schedule: PruneSchedule, protected: NDArray[np.bool_]) -> None:
        self._schedule, self._length = schedule, len(protected)
        self._always = protected.copy()
        self._always[: schedule.head] = True
        self._up_to = np.concatenate(([0], np.cumsum(self._always)))

    def tail(self, current: int) -> int:
        """How many of the last tokens are guarded where ``current`` tokens are left."""
        return min(current, max(self._schedule.tail_min, share_of(current, self._schedule.tail_share)))

    def forced(self, current: int) -> int:
        """How many of ``current`` tokens are forced: the union of head, tail and protected."""
        tail = self.tail(current)
        return int(self._up_to[self._length - tail]) + tail

    def mask(self, tail: int) -> NDArray[np.bool_]:
        """Which tokens of the prompt are forced where its last ``tail`` are guarded: bool ``(tokens,)``."""
        mask = self._always.copy()
        mask[self._length - tail :] = True
        return mask


def stage_counts(schedule: PruneSchedule, protected: NDArray[np.bool_], segment_ends: Sequence[int] = ()) -> tuple[StageCount, ...]:
    """Counts at every stage for one prompt of which ``protected``, bool ``(tokens,)``, is protected.

    ``top_k`` keeps ``max(round(keep * current), forced)`` tokens. Raises ``ValueError`` for ``threshold``, whose counts depend on
    the scores.
    """
    if schedule.rule == "chunk_top_k":
        return tuple(count.total() for count in chunk_counts(schedule, protected, segment_ends))
    if schedule.rule == "threshold":
        raise ValueError("what rule 'threshold' keeps depends on the scores: read it from PrefillResult.layer_tokens")
    guards, current, counts = Guards(schedule, protected), len(protected), []
    for stage in schedule.stages:
        forced = guards.forced(current)
        kept = max(share_of(current, stage.keep), forced)
        counts.append(StageCount(current, guards.tail(current), forced, kept))
        current = kept
    return tuple(counts)


@dataclass(frozen=True)
class ChunkCount:
    """What one stage does to the chunks of one prompt: as ``StageCount``, but int64 ``(chunks,)`` where a chunk has its own."""

    before: NDArray[np.int64]
    tail: int
    forced: NDArray[np.int64]
    kept: NDArray[np.int64]

    def total(self) -> StageCount:
        """The whole prompt's counts."""
        return StageCount(int(self.before.sum()), self.tail, int(self.forced.sum()), int(self.kept.sum()))


def chunk_numbers(length: int, segment_ends: Sequence[int]) -> NDArray[np.int64]:
    """The chunk of each of ``length`` tokens, int64 ``(length,)``: its message, or one more for the answer's header."""
    return np.searchsorted(np.asarray(segment_ends, np.int64), np.arange(length), side="right")


def chunk_counts(schedule: PruneSchedule, protected: NDArray[np.bool_], segment_ends: Sequence[int]) -> tuple[ChunkCount, ...]:
    """Counts by ``chunk_top_k`` at every stage for one prompt; it has ``len(segment_ends) + 1`` chunks, of which some may be empty.

    A chunk keeps ``forced + round(keep * (before - forced))`` tokens. That forced ones take no other's place makes what becomes of
    the others independent of when the guards leave the chunk, but for the tokens that the guards held.
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


def forced_stages(schedule: PruneSchedule, protected: NDArray[np.bool_], segment_ends: Sequence[int] = ()) -> NDArray[np.int64]:
    """For each token of one prompt, the number of leading stages that must keep it: int64 ``(tokens,)``.

    One number says it all because forced sets only shrink: head and protected are forced at every stage, the tail from the first
    stage on and for as long as it reaches back to the token. A token is forced at stage ``s`` exactly if its number exceeds ``s``.
    Of the tail of a ``threshold``, whose lengths are not known yet, nothing is said.
    """
    every = len(schedule.stages)
    through = np.where(Guards(schedule, protected).mask(0), every, 0).astype(np.int64)
    if schedule.rule == "threshold":
        return through
    for index, count in enumerate(stage_counts(schedule, protected, segment_ends)):
        tail = through[len(protected) - count.tail :]
        np.maximum(tail, index + 1, out=tail)
    return through


def layer_tokens(
    schedule: PruneSchedule, num_layers: int, protected: NDArray[np.bool_], segment_ends: Sequence[int] = ()
) -> tuple[int, ...]:
    """Number of a prompt's tokens that enter each layer, one per layer; exact, not an estimate. Raises as ``stage_counts``."""
    schedule.check_depth(num_layers)
    counts = stage_counts(schedule, protected, segment_ends)
    return spread_over_layers(
        len(protected), {s.after_layer: c.kept for s, c in zip(schedule.stages, counts, strict=True)}, num_layers
    )


def spread_over_layers(length: int, kept: Mapping[int, int], num_layers: int) -> tuple[int, ...]:
    """How many of ``length`` tokens enter each layer where ``kept[l]`` are left after layer ``l``."""
    tokens = [length]
    for layer in range(num_layers - 1):
        tokens.append(kept.get(layer, tokens[-1]))
    return tuple(tokens)
