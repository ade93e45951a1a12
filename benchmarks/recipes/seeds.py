"""The seeds that recipes may use. Those from ``HELD_OUT`` on are kept for measuring; nothing is trained or fitted on them.

Below that, ``RECORDED`` splits the training seeds: the planner's recipe uses those below it, recordings made with `erecap run
--training-seeds` those from it on.
"""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.runs.suites import HELD_OUT, RECORDED

MAX_ROUNDS = 10
"""Rounds of the planner's recipe, the expert's included."""
SEEDS_PER_ROUND = RECORDED // MAX_ROUNDS
"""Round r of the planner's recipe uses the seeds from r times this number on."""


def refuse_held_out(steps: Path, seeds: Iterable[int]) -> None:
    """Refuse to train on held-out episodes.

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
