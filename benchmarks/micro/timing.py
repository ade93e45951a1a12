"""Timing of several calls in turn, so that changes of the machine's load affect all of them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")

WARM_UP_ROUNDS = 2


def in_turn(
    calls: Mapping[Key, Callable[[], Result]], rounds: int, on_round: Callable[[], None] = lambda: None
) -> dict[Key, list[Result]]:
    """Run each call once per round and collect what it returns.

    The order rotates from round to round, so that no call always follows the same one. The first ``WARM_UP_ROUNDS`` rounds are left
    out of the result.

    Parameters
    ----------
    calls
        The calls by name.
    rounds
        Number of rounds that count.
    on_round
        Called after every round, warm-up included.

    Returns
    -------
    dict
        For each name the results in the order of rounds.
    """
    results: dict[Key, list[Result]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(WARM_UP_ROUNDS + rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            results[name].append(calls[name]())
        on_round()
    return {name: got[WARM_UP_ROUNDS:] for name, got in results.items()}
