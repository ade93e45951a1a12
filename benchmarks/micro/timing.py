"""Timing of several calls in turn, so that changes of the machine's load affect all of them."""

from collections.abc import Callable, Mapping

from erecap.profiling.timing import Key, Result, take_turns

WARM_UP_ROUNDS = 2


def in_turn(
    calls: Mapping[Key, Callable[[], Result]], rounds: int, on_round: Callable[[], None] = lambda: None
) -> dict[Key, list[Result]]:
    """Run each call once per round, as ``take_turns`` does, and leave the first ``WARM_UP_ROUNDS`` rounds out of the result.

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
    results = take_turns(calls, WARM_UP_ROUNDS + rounds, on_round)
    return {name: got[WARM_UP_ROUNDS:] for name, got in results.items()}
