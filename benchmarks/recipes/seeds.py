"""The seeds that recipes may use. Seeds from ``HELD_OUT`` on are for measuring only; nothing is trained or fitted on them.

``RECORDED`` splits the seeds below ``HELD_OUT``: the planner's recipe uses those below ``RECORDED``, and recordings made with
`erecap run --training-seeds` use those from ``RECORDED`` on.
"""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.runs.suites import RECORDED
from envs import HELD_OUT

MAX_ROUNDS = 10
"""Largest number of rounds of the planner's recipe, the expert's round included."""
SEEDS_PER_ROUND = RECORDED // MAX_ROUNDS
"""Number of seeds of each round of the planner's recipe. Round r begins at seed r times this number."""


def refuse_held_out(steps: Path, seeds: Iterable[int]) -> None:
    """Raise an error for held-out episodes in training data.

    Parameters
    ----------
    steps
        The file that the episodes come from, for the message.
    seeds
        The seeds of its episodes.

    Raises
    ------
    ValueError
        Where one of ``seeds`` is held out.
    """
    held_out = next((seed for seed in seeds if seed >= HELD_OUT), None)
    if held_out is not None:
        raise ValueError(
            f"{steps} holds episodes of the held-out seed {held_out}, on which results are measured: record others to train on "
            "with `erecap run --training-seeds`"
        )
