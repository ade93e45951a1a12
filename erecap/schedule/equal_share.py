"""Schedules that begin at different layers and keep the same mean share of a set of prompts, so that they can be compared."""

from bisect import bisect_right
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from erecap.schedule.counts import CountedSchedule, layer_tokens
from erecap.schedule.schedule import PruneSchedule
from erecap.schedule.shares import RATIOS
from erecap.schedule.stages import SEED_DEPTH

SEED_SPACING = 3
"""Layers from one stage of the seed to the next."""
TOLERANCE = 0.01
"""Largest relative difference between the share that was asked for and the one that is found."""

Masks = Sequence[NDArray[np.bool_]]
"""Masks of the protected tokens of prompts, bool ``(tokens,)`` each."""


class ShareError(ValueError):
    """An error for a kept share that no keep ratio gives.

    Attributes
    ----------
    nearest
        The nearest share that there is.
    """

    def __init__(self, share: float, layers: Sequence[int], nearest: float) -> None:
        self.nearest = nearest
        super().__init__(
            f"share={share:g} cannot be reached with stages after layers {list(layers)}, the nearest is {nearest:.3f}: protected "
            "tokens and the layers before the first stage are always kept; ask for a larger share, or begin earlier"
        )


def first_layers(num_layers: int, allowed: Collection[int] | None = None) -> tuple[int, ...]:
    """List the layers after which a first stage can come: all but the last two, as in the seed's rule.

    Parameters
    ----------
    num_layers
        Depth of the model.
    allowed
        Layers after which pruning is possible, such as those that a pruner was trained for. Default: all.
    """
    return tuple(layer for layer in range(num_layers - 2) if allowed is None or layer in allowed)


def stages_from(first: int, num_layers: int, allowed: Collection[int] | None = None) -> tuple[int, ...]:
    """List the layers of the stages of a schedule that begins after layer ``first``.

    The rule is the seed's, ``range(4, num_layers - 2, 3)`` for 28 layers, with another beginning: the next stage comes
    ``max(1, round(3 * num_layers / 28))`` layers later, or at the first allowed layer after that.

    Parameters
    ----------
    first
        Layer of the first stage.
    num_layers
        Depth of the model.
    allowed
        Layers after which pruning is possible. Default: all.

    Raises
    ------
    ValueError
        Where no first stage can come after that layer.
    """
    possible = first_layers(num_layers, allowed)
    if first not in possible:
        raise ValueError(f"first={first} is no place for a first stage here: choose from the layers {list(possible)}")
    spacing, layers = max(1, int(SEED_SPACING * num_layers / SEED_DEPTH + 0.5)), [first]
    for layer in possible:
        if layer >= layers[-1] + spacing:
            layers.append(layer)
    return tuple(layers)


def kept_share(schedule: CountedSchedule, num_layers: int, prompts: Masks) -> float:
    """Count the share of a prompt's tokens that enter a layer: mean over layers, then over prompts, 0 to 1."""
    return float(np.mean([np.mean(layer_tokens(schedule, num_layers, prompt)) / len(prompt) for prompt in prompts]))


def schedule_of_share(layers: Sequence[int], num_layers: int, share: float, prompts: Masks) -> PruneSchedule:
    """Make the schedule with stages after ``layers`` and one keep ratio, under which ``prompts`` have a given kept share.

    The ratio has at most four decimals and is found by bisection, since the share never falls when the ratio rises. Of several
    ratios that keep the same tokens it is the largest.

    Parameters
    ----------
    layers
        Layers of the stages, in rising order.
    num_layers
        Depth of the model.
    share
        The kept share, in (0, 1).
    prompts
        The prompts; at least one.

    Raises
    ------
    ShareError
        Where no ratio comes within ``TOLERANCE`` of the share.
    ValueError
        For a share outside (0, 1), and for no prompts.
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share={share} must be between 0 and 1: give the share of tokens that enter a layer, such as 0.5")
    if not prompts:
        raise ValueError("the kept share of 0 prompts is not defined: give at least one prompt")

    def found(keep: float) -> float:
        return kept_share(PruneSchedule.after(layers, keep), num_layers, prompts)

    above = bisect_right(RATIOS, share, key=found)
    near = [RATIOS[index] for index in (above - 1, above) if 0 <= index < len(RATIOS)]
    best = min(near, key=lambda keep: abs(found(keep) - share))
    if abs(found(best) - share) > TOLERANCE * share:
        raise ShareError(share, layers, found(best))
    return PruneSchedule.after(layers, RATIOS[bisect_right(RATIOS, found(best), key=found) - 1])
