"""Timing of calls, in turn, and quantiles of the times."""

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

from erecap.models.device import synchronize

Key = TypeVar("Key")
Result = TypeVar("Result")


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Time one call in seconds; ``device`` is synchronized before and after."""
    synchronize(device)
    start = perf_counter()
    call()
    synchronize(device)
    return perf_counter() - start


def take_turns(
    calls: Mapping[Key, Callable[[], Result]], rounds: int, on_round: Callable[[], None] = lambda: None
) -> dict[Key, list[Result]]:
    """Run each call once per round and collect the results by name.

    The order rotates from round to round, so that no call is always first or always follows the same one.

    Parameters
    ----------
    calls
        The calls by name.
    rounds
        Number of rounds.
    on_round
        Called after every round.

    Returns
    -------
    dict
        For each name the results in the order of rounds.
    """
    results: dict[Key, list[Result]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            results[name].append(calls[name]())
        on_round()
    return results


def quantiles_ms(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Compute mean, standard deviation, median, quartiles and 99th percentile of ``seconds``, in ms, keyed as in ``vllm bench``."""
    milliseconds = np.asarray(seconds) * 1e3
    return {
        f"mean_{name}_ms": float(milliseconds.mean()),
        f"std_{name}_ms": float(milliseconds.std()),
        **{f"{key}_{name}_ms": float(np.percentile(milliseconds, share)) for key, share in _PERCENTILES.items()},
    }


_PERCENTILES = {"median": 50, "p25": 25, "p75": 75, "p99": 99}


def ratio_quartiles(name: str, above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Compute the median and the quartiles of ``above / below`` over rounds, keyed ``name``, ``p25_name`` and ``p75_name``."""
    ratios = np.asarray(above) / np.asarray(below)
    return {name: float(np.median(ratios)), **{f"p{share}_{name}": float(np.percentile(ratios, share)) for share in (25, 75)}}
