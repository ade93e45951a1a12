"""The least pruning that a budget allows: a schedule chosen for one prompt from what a prefill of given lengths costs.

Knows neither clocks nor models. What is budgeted (seconds, FLOPs) is whatever ``cost`` counts; see ``cost_model`` and
``erecap.calibration.flops.flops_cost``.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from erecap.schedule.schedule import PruneSchedule, layer_tokens

Cost = Callable[[Sequence[int]], float]
"""What a prefill costs in which ``layer_tokens[l]`` tokens enter layer ``l``; must not fall where tokens are added to a layer."""

KEEPS = tuple(percent / 100 for percent in range(99, 29, -1))
"""The keep ratios to choose from, the least pruning first. Below 0.3 little but the forced tokens is left after two stages."""


class BudgetError(ValueError):
    """No schedule fits the budget."""


@dataclass(frozen=True)
class BudgetChoice:
    """The schedule chosen for one prompt, what it costs there, and whether that is within the budget."""

    schedule: PruneSchedule
    cost: float
    met: bool


def choose_schedule(
    num_layers: int, cost: Cost, budget: float, protected: NDArray[np.bool_], stages: Sequence[int] | None = None
) -> BudgetChoice:
    """The schedule for one prompt (``protected`` is its mask, bool ``(tokens,)``) that drops least among those that fit.

    Tried in this order: no pruning; the seed's stages with one common ratio of ``KEEPS``; all of ``stages``, which come earlier.
    ``stages`` are the layers after which pruning is possible, such as those a pruner was trained for (default: all but the last
    layer); the seed's are tried as far as they are among them. Where nothing fits, the cheapest of these, with ``met`` false.

    Bisection takes a handful of evaluations, each exact host arithmetic. It finds the largest ratio that fits wherever every stage
    drops something at 0.99, which it does from 140 tokens on, even in 80 layers. Raises ``ValueError`` for a budget that is not
    positive.
    """
    if not budget > 0:
        raise ValueError(f"budget={budget} must be positive: give seconds, or whatever the cost counts")

    def choice(schedule: PruneSchedule) -> BudgetChoice:
        spent = cost(layer_tokens(schedule, num_layers, protected))
        return BudgetChoice(schedule, spent, spent <= budget)

    cheapest = choice(PruneSchedule.none())
    for layers in stage_sets(num_layers, stages):
        if cheapest.met:
            break
        ladder = _ladder(layers)
        strongest = choice(ladder[-1])
        if strongest.met:
            return choice(ladder[bisect_left(ladder, True, key=lambda schedule: choice(schedule).met)])
        cheapest = min(cheapest, strongest, key=lambda choice: choice.cost)
    return cheapest


def schedule_for_budget(
    num_layers: int, cost: Cost, budget: float, prompt: int | NDArray[np.bool_], stages: Sequence[int] | None = None
) -> PruneSchedule:
    """``PruneSchedule.for_budget``."""
    if not isinstance(prompt, np.ndarray) and prompt < 1:
        raise ValueError(f"prompt={prompt} must be at least 1: give its number of tokens, or the mask of its protected ones")
    protected = prompt if isinstance(prompt, np.ndarray) else np.zeros(prompt, np.bool_)
    choice = choose_schedule(num_layers, cost, budget, protected, stages)
    if not choice.met:
        raise BudgetError(
            f"budget={budget:g} cannot be met for a prompt of {len(protected)} tokens, {int(protected.sum())} of them protected: "
            f"the cheapest schedule ({choice.schedule}) costs {choice.cost:g}; raise the budget, or shorten the prompt"
        )
    return choice.schedule


def stage_sets(num_layers: int, stages: Sequence[int] | None) -> list[tuple[int, ...]]:
    """The seed's stages and all stages, as far as there are any, once each."""
    allowed = tuple(layer for layer in range(num_layers - 1) if stages is None or layer in stages)
    seed = tuple(layer for layer in PruneSchedule.for_depth(num_layers, 1.0).layers if layer in allowed)
    return [layers for layers in dict.fromkeys((seed, allowed)) if layers]


@lru_cache(maxsize=64)
def _ladder(layers: tuple[int, ...]) -> tuple[PruneSchedule, ...]:
    """The schedules of these stages, the least pruning first."""
    return tuple(PruneSchedule.after(layers, keep) for keep in KEEPS)
