"""Measuring several things in one run, so that what the machine does meanwhile falls on all of them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")

WARM_UP_ROUNDS = 2


def in_turn(
    calls: Mapping[Key, Callable[[], Result]], rounds: int, on_round: Callable[[], None] = lambda: None
) -> dict[Key, list[Result]]:
    """What each call returned in each round; the order turns from round to round, so that none always follows the same one.

    ``WARM_UP_ROUNDS`` come first and are left out. ``on_round`` is called after every round.
    """
    results: dict[Key, list[Result]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(WARM_UP_ROUNDS + rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            results[name].append(calls[name]())
        on_round()
    return {name: got[WARM_UP_ROUNDS:] for name, got in results.items()}
