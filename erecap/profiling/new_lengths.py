"""TTFT for prompt lengths that the process meets for the first time, as every replan of an agent brings one.

CPU libraries and some attention kernels of a GPU prepare a kernel for each number of rows that they have not met.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import ceil

import numpy as np
from transformers import PreTrainedModel

from erecap.profiling.results import Row
from erecap.profiling.shapes import make_random_prompt
from erecap.profiling.timing import quantiles_ms, ratio_quartiles, take_turns
from erecap.profiling.variants import Variants, seconds_to_first_token

LOWEST = 0.9
"""New lengths for the length L are drawn from ``LOWEST * L`` up to L, without L itself."""


def draw_rounds(length: int, variants: int, most: int, met: set[int]) -> list[list[int]]:
    """Draw the prompt lengths of up to ``most`` rounds: per round ``variants`` neighbouring lengths, none of them in ``met``.

    Each variant gets a length of its own: at the same length the second one would profit from what the first one prepared. The
    lengths of a round differ by a few tokens. They are added to ``met``.
    """
    free = [tokens for tokens in range(max(1, ceil(LOWEST * length)), length) if tokens not in met]
    rounds = [free[start : start + variants] for start in range(0, len(free) - variants + 1, variants)]
    drawn = [rounds[index] for index in np.random.default_rng(length).permutation(len(rounds))[:most]]
    met.update(chain.from_iterable(drawn))
    return drawn


def measure_new_lengths(
    model: PreTrainedModel,
    variants: Variants,
    rounds: Sequence[Sequence[int]],
    on_round: Callable[[dict[float, Row]], None],
) -> None:
    """Time every variant once per round, each at a length of its own, in rotating order.

    Parameters
    ----------
    model
        The model.
    variants
        What is compared.
    rounds
        Prompt lengths of each round, from ``draw_rounds``.
    on_round
        Gets the figures so far after every round, by keep ratio: ``new_lengths``, the number of lengths; quantiles of TTFT in ms
        (``quantiles_ms`` of ``new_ttft``); with a baseline ``new_speedup``, ``p25_new_speedup`` and ``p75_new_speedup``: TTFT of
        the baseline / TTFT, over rounds.
    """
    lengths, spent = chain.from_iterable(rounds), dict[float, list[float]]()

    def timed(keep: float) -> float:
        prompt = make_random_prompt(model, next(lengths))
        spent.setdefault(keep, []).append(seconds_to_first_token(model, prompt, variants[keep]))
        return spent[keep][-1]

    calls = {keep: (lambda keep=keep: timed(keep)) for keep in variants}
    take_turns(calls, len(rounds), lambda: on_round(dict(_figures(spent))))


def _figures(spent: dict[float, list[float]]) -> Iterator[tuple[float, Row]]:
    for keep, seconds in spent.items():
        figures: Row = {"new_lengths": len(seconds), **quantiles_ms("new_ttft", seconds)}
        if 1.0 in spent:
            figures |= ratio_quartiles("new_speedup", spent[1.0], seconds)
        yield keep, figures
