"""Plots of training runs, from the records of their logs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots import COLORS, png

_PRUNER_TERMS = (("lm", "LM loss under masks (nats)"), ("mse", "squared error to saliency"), ("rank", "ranking loss"))
GUESS = 0.5


def pruner_plot(records: Sequence[Mapping[str, Any]]) -> bytes:
    """The pruner's loss terms and the share of pairs in the right order, in training and on held-out episodes, as a PNG."""
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flatten()
    for axes, (name, label) in zip(panels, (*_PRUNER_TERMS, ("order", "pairs in the order of saliency")), strict=True):
        _curves(axes, records, name)
        axes.set_title(label, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[3].axhline(GUESS, color="0.6", linewidth=1, linestyle=":", label="a guess")
    for axes in panels[2:]:
        axes.set_xlabel("optimiser steps")
    panels[3].legend(frameon=False, fontsize=9)
    return png(figure)


def _curves(axes: Axes, records: Sequence[Mapping[str, Any]], name: str) -> None:
    trained = [(record["step"], record[name]) for record in records if name in record]
    held_out = [(record["step"], record["eval"][name]) for record in records if name in record.get("eval", {})]
    axes.plot(*zip(*trained, strict=True) if trained else ([], []), color=COLORS[0], linewidth=1.2, label="training")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=COLORS[1], marker="o", markersize=4, label="held out, hard verdicts")
