"""Plots of training runs, from their logs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.reports.plots import COLORS, png

_PRUNER_TERMS = {
    "lm": "LM loss under masks (nats)",
    "mse": "squared error to saliency",
    "rank": "ranking loss",
    "order": "pairs in the order of saliency",
}
_CHANCE = 0.5  # share of pairs that random scores put into the right order


def pruner_plot(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot the loss terms of a pruner, and the share of token pairs whose scores are in the order of their saliency.

    Parameters
    ----------
    records : sequence of mapping
        Lines of the training log. ``step`` counts optimiser steps; ``lm``, ``mse``, ``rank`` and ``order`` are of training, and
        the same keys under ``eval`` are of held-out episodes.

    Returns
    -------
    bytes
        A PNG: four panels, or one for a pruner that was trained without saliency.
    """
    shown = [name for name in _PRUNER_TERMS if any(name in record for record in records)] or ["lm"]
    rows, columns = (1, 1) if len(shown) == 1 else (2, 2)
    figure = Figure(figsize=(4.5 * columns, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for axes, name in zip(panels, shown, strict=False):
        _curves(axes, records, name)
        axes.set_title(_PRUNER_TERMS[name], loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "order":
            axes.axhline(_CHANCE, color="0.6", linewidth=1, linestyle=":", label="a guess")
    for axes in panels[-columns:]:
        axes.set_xlabel("optimiser steps")
    panels[-1].legend(frameon=False, fontsize=9)
    return png(figure)


def _curves(axes: Axes, records: Sequence[Mapping[str, Any]], name: str) -> None:
    trained = [(record["step"], record[name]) for record in records if name in record]
    held_out = [(record["step"], record["eval"][name]) for record in records if name in record.get("eval", {})]
    axes.plot(*zip(*trained, strict=True) if trained else ([], []), color=COLORS[0], linewidth=1.2, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=COLORS[1], marker="o", markersize=4, label="held out, hard verdicts")
