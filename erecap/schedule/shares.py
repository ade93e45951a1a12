"""What a keep ratio leaves of a prompt: it holds at each stage, of the tokens that reach it, so it compounds.

All shares here are those of a long prompt whose tokens may all be dropped. A prompt's protected tokens, its head and its tail are
kept on top of them, so measured shares are larger (``equal_share.kept_share``).
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import prod

RATIOS = [number / 10_000 for number in range(1, 10_001)]
"""The keep ratios to choose from: as many decimals as a spec string should show."""


def shares_of(layers: Sequence[int], keeps: Sequence[float], num_layers: int) -> tuple[float, float]:
    """Compute the kept share and the final share.

    Parameters
    ----------
    layers
        Layers after which the stages come, in rising order.
    keeps
        Keep ratio of each stage.
    num_layers
        Depth of the model.

    Returns
    -------
    tuple of float
        The share of a prompt's tokens that enter a layer, mean over the layers, and the share that enters the last one, both in
        (0, 1]. With one stage after every layer and ratio k they are ``mean(k**l)`` and ``k**(num_layers - 1)``.
    """
    enters = [prod(keep for stage, keep in zip(layers, keeps, strict=True) if stage < layer) for layer in range(num_layers)]
    return sum(enters) / num_layers, enters[-1]


def keep_of_share(layers: Sequence[int], num_layers: int, share: float) -> float:
    """Find the keep ratio under which a layer sees ``share`` of a prompt's tokens, mean over the layers.

    Parameters
    ----------
    layers
        Layers after which the stages come, in rising order; at least one.
    num_layers
        Depth of the model.
    share
        The kept share, in (0, 1].

    Returns
    -------
    float
        The largest ratio with at most four decimals whose kept share is not above ``share``.

    Raises
    ------
    ValueError
        For a share outside (0, 1], and one that no ratio gives: the layers up to the first stage see the whole prompt.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share={share} must be in (0, 1]: give the share of the prompt that a layer sees on average, such as 0.6")

    def found(keep: float) -> float:
        return round(shares_of(layers, [keep] * len(layers), num_layers)[0], 9)

    index = bisect_right(RATIOS, share, key=found)
    if not index:
        raise ValueError(
            f"share={share:g} cannot be reached with stages after layers {list(layers)}: the layers up to the first stage see the "
            f"whole prompt, which alone is {found(RATIOS[0]):.3f}; give a larger share, or begin earlier (stages=0-5)"
        )
    return RATIOS[index - 1]
