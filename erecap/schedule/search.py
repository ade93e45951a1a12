"""The search for the schedule that prunes a prompt least within a budget.

The budget has the unit of the cost function, such as seconds
(``CostModel.late_replan_s``) or FLOPs (``erecap.calibration.flops.flops_cost``).
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from erecap.schedule.counts import CountedSchedule, layer_tokens
from erecap.schedule.stages import seed_layers

Candidate = TypeVar("Candidate", bound=CountedSchedule)

Cost = Callable[[Sequence[int]], float]
"""The cost of a prefill, given the tokens that enter each layer. It must not fall when a layer gets more tokens."""

KEEPS = tuple(percent / 100 for percent in range(99, 29, -1))
"""Keep ratios to choose from, least pruning first. Below 0.3, two stages leave little more than the forced tokens."""


class BudgetError(ValueError):
    """An error for a budget that no schedule meets."""


@dataclass(frozen=True)
class BudgetChoice(Generic[Candidate]):
    """The schedule chosen for one prompt.

    Attributes
    ----------
    schedule
        The choice.
    cost
        What it costs for this prompt, in the unit of the budget.
    met
        Whether that is within the budget.
    """

    schedule: Candidate
    cost: float
    met: bool


def least_pruning(
    after: Callable[[tuple[int, ...], float], Candidate],
    num_layers: int,
    cost: Cost,
    budget: float,
    protected: NDArray[np.bool_],
    stages: Sequence[int] | None = None,
) -> BudgetChoice[Candidate]:
    """Choose the schedule that drops least among those that meet the budget.

    The search tries, in this order: no pruning; the default stages with one keep ratio of ``KEEPS``; all allowed stages with one
    keep ratio of ``KEEPS``. If none meets the budget, it returns the cheapest of these, with ``met`` false.

    The keep ratio is found by bisection over a few exact counts. It is the largest ratio that meets the budget if every stage drops
    a token at 0.99, which holds from 140 tokens on, even in 80 layers.

    Parameters
    ----------
    after
        Makes the schedule with a stage after each of the given layers, all of the given keep ratio.
    num_layers
        Depth of the model.
    cost
        Cost of a prefill, as a function of the tokens that enter each layer.
    budget
        The most that the prefill may cost, in the unit of ``cost``.
    protected
        Mask of the prompt's protected tokens, bool ``(tokens,)``.
    stages
        Layers after which pruning is possible, such as those that a pruner was trained for. Default: all but the last layer. Of
        the default stages, only those among these layers are tried.

    Raises
    ------
    ValueError
        For a budget that is not positive.
    """
    if not budget > 0:
        raise ValueError(f"budget={budget} must be positive: give it in the unit of the cost, such as seconds")

    def choice(layers: tuple[int, ...], keep: float) -> BudgetChoice[Candidate]:
        schedule = after(layers, keep)
        spent = cost(layer_tokens(schedule, num_layers, protected))
        return BudgetChoice(schedule, spent, spent <= budget)

    cheapest = choice((), 1.0)
    for layers in stage_sets(num_layers, stages):
        if cheapest.met:
            break
        strongest = choice(layers, KEEPS[-1])
        if strongest.met:
            return choice(layers, KEEPS[bisect_left(KEEPS, True, key=lambda keep: choice(layers, keep).met)])
        cheapest = min(cheapest, strongest, key=lambda choice: choice.cost)
    return cheapest


def stage_sets(num_layers: int, stages: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Return the sets of stages that a search tries: the default stages and all allowed ones.

    Parameters
    ----------
    num_layers
        Depth of the model.
    stages
        Allowed layers. Default: all but the last.

    Returns
    -------
    list of tuple of int
        Layers in rising order. Empty sets are left out; equal sets come once.
    """
    allowed = tuple(layer for layer in range(num_layers - 1) if stages is None or layer in stages)
    seed = tuple(layer for layer in seed_layers(num_layers) if layer in allowed)
    return [layers for layers in dict.fromkeys((seed, allowed)) if layers]
