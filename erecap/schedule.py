"""Where tokens are dropped and how many: the schedule, and the counts that follow from it.

Everything here is host arithmetic on lengths. No tensor, model or device: the counts of a prefill are known before it starts,
which is what lets the engine run without a host-device synchronisation and lets the ceiling be computed from them.
"""

from collections.abc import Callable, Iterable, Sequence
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
    """Drop tokens after layer ``after_layer`` (from 0): of those that reached it, the share ``keep`` enters the next layer."""

    after_layer: int
    keep: float

    def __post_init__(self) -> None:
        if self.after_layer < 0:
            raise ValueError(f"after_layer={self.after_layer} must not be negative: layers are counted from 0")
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep={self.keep} must be in (0, 1]: give the share of tokens to keep, such as 0.7")


@dataclass(frozen=True)
class PruneSchedule:
    """Stages in the order of layers, and what no stage may drop.

    The first ``head`` tokens and the last ``max(tail_min, tail_share * current length)`` are always kept, as are protected ones
    (after SDTP, arXiv 2504.04514). ``rule`` names how the others are chosen; only ``top_k`` exists.
    """

    stages: tuple[PruneStage, ...] = ()
    head: int = 4
    tail_min: int = 16
    tail_share: float = 0.10
    rule: Rule = "top_k"

    def __post_init__(self) -> None:
        _check_rule(self.rule)
        layers = [stage.after_layer for stage in self.stages]
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

    @classmethod
    def none(cls) -> "PruneSchedule":
        """The empty schedule, which is the baseline: every token enters every layer."""
        return cls()

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
        return cls(tuple(PruneStage(layer, keep) for layer in scaled if layer < num_layers - 1))

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
        from erecap.budget import schedule_for_budget  # it makes schedules, so it imports this module

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


def parse_stages(text: str) -> tuple[int, ...]:
    """Layers after which to prune, written ``0-5``, ``0+2+4``, or both: ``0+3-5``. Raises ``ValueError`` for other text."""
    layers: list[int] = []
    for part in text.split("+"):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"stages={text!r} are not layers: write them like 0-5 or 0+2+4")
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


def stage_counts(schedule: PruneSchedule, protected: NDArray[np.bool_]) -> tuple[StageCount, ...]:
    """Counts at every stage for one prompt; ``protected`` is its mask, bool ``(tokens,)``.

    A stage keeps ``max(round(keep * current), forced)`` tokens, ``forced`` being the union of head, tail and protected.
    The device need not be asked: a tail never grows from stage to stage and was forced before, so it always consists of the last
    tokens of the ORIGINAL prompt, and how many protected ones lie outside head and tail can be counted on the mask.
    """
    length = current = len(protected)
    up_to = np.concatenate(([0], np.cumsum(protected)))
    counts = []
    for stage in schedule.stages:
        tail = min(current, max(schedule.tail_min, share_of(current, schedule.tail_share)))
        head = min(schedule.head, length - tail)
        forced = head + int(up_to[length - tail] - up_to[head]) + tail
        kept = max(share_of(current, stage.keep), forced)
        counts.append(StageCount(current, tail, forced, kept))
        current = kept
    return tuple(counts)


def forced_stages(schedule: PruneSchedule, protected: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each token of one prompt, the number of leading stages that must keep it: int64 ``(tokens,)``.

    One number says it all because forced sets only shrink: head and protected are forced at every stage, the tail from the first
    stage on and for as long as it reaches back to the token. A token is forced at stage ``s`` exactly if its number exceeds ``s``.
    """
    every = len(schedule.stages)
    through = np.where(protected, every, 0).astype(np.int64)
    through[: schedule.head] = every
    for index, count in enumerate(stage_counts(schedule, protected)):
        tail = through[len(protected) - count.tail :]
        np.maximum(tail, index + 1, out=tail)
    return through


def layer_tokens(schedule: PruneSchedule, num_layers: int, protected: NDArray[np.bool_]) -> tuple[int, ...]:
    """Number of a prompt's tokens that enter each layer, one per layer; exact, not an estimate."""
    schedule.check_depth(num_layers)
    kept = {stage.after_layer: count.kept for stage, count in zip(schedule.stages, stage_counts(schedule, protected), strict=True)}
    tokens = [len(protected)]
    for layer in range(num_layers - 1):
        tokens.append(kept.get(layer, tokens[-1]))
    return tuple(tokens)


def _check_rule(rule: str) -> None:
    if rule not in get_args(Rule):
        raise ValueError(f"rule {rule!r} is not known: the rules are {', '.join(get_args(Rule))}")
    if rule != "top_k":
        raise ValueError(f"rule {rule!r} is named but does not exist yet: use 'top_k'")
