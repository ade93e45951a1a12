"""The points of a cost model: prompt lengths and schedules that it is fitted to, and others that it is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np

from erecap.schedule import PruneSchedule, layer_tokens

_FIT_KEEPS, _JUDGE_KEEPS = (0.7, 0.4), (0.85, 0.55)


@dataclass(frozen=True)
class Point:
    """One prompt length under one schedule.

    Attributes
    ----------
    tokens
        Tokens of the prompt.
    schedule
        How it is pruned.
    held_out
        Whether the point is left out of the fit, to measure its error.
    """

    tokens: int
    schedule: PruneSchedule
    held_out: bool

    def layer_tokens(self, num_layers: int) -> tuple[int, ...]:
        """Return the tokens that enter each layer of a model of ``num_layers`` layers; no token is protected."""
        return layer_tokens(self.schedule, num_layers, np.zeros(self.tokens, np.bool_))


def cost_points(lengths: Sequence[int], sets: Sequence[Sequence[int]]) -> list[Point]:
    """List the points: the given lengths to fit to, and held-out points at their geometric means with other keep ratios.

    Parameters
    ----------
    lengths
        Prompt lengths in tokens; doubles count once.
    sets
        Sets of layers after which to prune.
    """
    lengths = sorted(set(lengths))
    between = [round(sqrt(a * b)) for a, b in pairwise(lengths)]
    fit = [
        Point(tokens, schedule, False)
        for tokens in lengths
        for schedule in _schedules(_FIT_KEEPS, [*sets, *(layers[::2] for layers in sets[:1])])
    ]
    return fit + [Point(tokens, schedule, True) for tokens in between for schedule in _schedules(_JUDGE_KEEPS, sets)]


def _schedules(keeps: Sequence[float], sets: Sequence[Sequence[int]]) -> list[PruneSchedule]:
    """List the schedules: no pruning, and every set of stages with every keep ratio.

    The fit needs sets of different sizes. With one size only, the price of a stage and the overhead could not be separated.
    """
    pruned = [PruneSchedule.after(layers, keep) for layers in sets for keep in keeps]
    return [PruneSchedule.none(), *pruned]
