"""Draw the data path, from the environment's observation to the report, as ``docs/figures/data-path.png``.

Run it from the repository root: ``.venv/bin/python tools/draw_data_path.py [FILE]``.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

COLOURS = {
    "envs": "#3a7d44",
    "agents": "#b3541e",
    "planner": "#7a4fa3",
    "erecap": "#1f6f9f",
    "benchmarks": "#5f5f5f",
}
"""Colour of each package."""
WIDTH, HEIGHT = 9.0, 5.3
"""Size of the figure in inches; positions below are in inches from the lower left corner."""
BOX = (1.3, 0.66)
"""Width and height of a box."""
COLUMNS = (1.08, 3.48, 5.88, 8.28)
ROWS = (4.55, 2.9, 1.05)
"""Centres of the boxes."""


@dataclass(frozen=True)
class Noun:
    """A thing that is handed on: a type, and the package that defines it."""

    name: str
    note: str
    package: str
    column: int
    row: int

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box in inches."""
        return COLUMNS[self.column], ROWS[self.row]


@dataclass(frozen=True)
class Step:
    """A function or record that makes one noun of another, and the file that holds it."""

    before: str
    after: str
    function: str
    file: str
    package: str


NOUNS = (
    Noun("observation", "gymnasium", "envs", 0, 0),
    Noun("text", "str", "agents", 1, 0),
    Noun("History", "entries, append-only", "planner", 2, 0),
    Noun("Prompt", "segments, protected", "planner", 3, 0),
    Noun("TokenizedPrompt", "ids, protected", "erecap", 3, 1),
    Noun("PrefillResult", "KV cache, logits", "erecap", 2, 1),
    Noun("Generation", "answer, times, counts", "planner", 1, 1),
    Noun("plan", "list of Call", "agents", 0, 1),
    Noun("Tick, Outcome", "steps, how it ended", "agents", 0, 2),
    Noun("records", "steps.jsonl", "agents", 1, 2),
    Noun("Summary", "summary.json", "benchmarks", 2, 2),
    Noun("report", "table.md, plots", "benchmarks", 3, 2),
)
STEPS = (
    Step("observation", "text", "describe, note", "world.py", "agents"),
    Step("text", "History", "append", "history.py", "planner"),
    Step("History", "Prompt", "build_prompt", "prompt.py", "planner"),
    Step("Prompt", "TokenizedPrompt", "encode", "models/tokenization.py", "erecap"),
    Step("TokenizedPrompt", "PrefillResult", "prefill", "engine/prefill.py", "erecap"),
    Step("PrefillResult", "Generation", "decode", "engine/decode.py", "erecap"),
    Step("Generation", "plan", "World.parse", "world.py", "agents"),
    Step("plan", "Tick, Outcome", "World.run", "calls env.step", "agents"),
    Step("Generation", "records", "PlannerCall", "one per replan", "agents"),
    Step("Tick, Outcome", "records", "StepRecord", "one per line", "agents"),
    Step("records", "Summary", "summarize", "summary.py", "benchmarks"),
    Step("Summary", "report", "write_report", "write.py", "benchmarks"),
)


def draw(path: Path) -> None:
    """Draw the figure and write it to ``path``, 1800 pixels wide."""
    figure = plt.figure(figsize=(WIDTH, HEIGHT), dpi=200)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    nouns = {noun.name: noun for noun in NOUNS}
    for noun in NOUNS:
        _box(axes, noun)
    for step in STEPS:
        _arrow(axes, nouns[step.before], nouns[step.after], step)
    _selection(axes)
    _loop(axes)
    _legend(axes)
    figure.savefig(path)
    plt.close(figure)


def _box(axes: Axes, noun: Noun) -> None:
    (x, y), (width, height), colour = noun.centre, BOX, COLOURS[noun.package]
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.08", fc=f"{colour}22", ec=colour, lw=1.4))
    axes.text(x, y + 0.11, noun.name, ha="center", va="center", fontsize=8.9, weight="bold", color="#1a1a1a")
    axes.text(x, y - 0.15, noun.note, ha="center", va="center", fontsize=7.8, color="#444444")


def _arrow(axes: Axes, before: Noun, after: Noun, step: Step) -> None:
    (x0, y0), (x1, y1), (width, height) = before.centre, after.centre, BOX
    colour = COLOURS[step.package]
    if before.row == after.row:
        side = 1 if x1 > x0 else -1
        _line(axes, [(x0 + side * width / 2, y0), (x1 - side * width / 2, y1)], colour)
        middle = (x0 + x1) / 2
        axes.text(middle, y0 + 0.09, step.function, ha="center", va="bottom", fontsize=8.4, color=colour, weight="bold")
        axes.text(middle, y0 - 0.09, step.file, ha="center", va="top", fontsize=7.6, color=colour)
        return
    _line(axes, [(x0, y0 - height / 2), (x1, y1 + height / 2)], colour)
    middle = (y0 + y1) / 2
    left = before.column == len(COLUMNS) - 1
    x, align = (x0 - 0.1, "right") if left else (x0 + 0.1, "left")
    axes.text(x, middle + 0.09, step.function, ha=align, va="center", fontsize=8.4, color=colour, weight="bold")
    axes.text(x, middle - 0.1, step.file, ha=align, va="center", fontsize=7.6, color=colour)


def _line(axes: Axes, points: Iterable[tuple[float, float]], colour: str) -> None:
    """Draw a line through ``points`` with an arrow at its end."""
    points = list(points)
    for (x0, y0), (x1, y1) in pairwise(points[:-1]):
        axes.plot([x0, x1], [y0, y1], color=colour, lw=1.5, solid_capstyle="round")
    shape = {"arrowstyle": "-|>", "mutation_scale": 13, "shrinkA": 0, "shrinkB": 1}
    axes.add_patch(FancyArrowPatch(points[-2], points[-1], color=colour, lw=1.5, **shape))


def _selection(axes: Axes) -> None:
    """Draw what ``prefill`` is given besides the prompt."""
    colour, x, y = COLOURS["erecap"], (COLUMNS[2] + COLUMNS[3]) / 2, 1.98
    width, height = 2.5, 0.52
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.08", fc="white", ec=colour, lw=1.2, ls="--"))
    axes.text(x, y + 0.1, "PruneSchedule + Selector", ha="center", va="center", fontsize=9.2, weight="bold", color="#1a1a1a")
    axes.text(x, y - 0.13, "where and how much; which tokens", ha="center", va="center", fontsize=7.8, color="#444444")
    _line(axes, [(x, y + height / 2), (x, ROWS[1] - 0.26)], colour)


def _loop(axes: Axes) -> None:
    """Draw the way back from the world's ticks to the next observation."""
    left, colour = 0.25, COLOURS["envs"]
    edge = COLUMNS[0] - BOX[0] / 2
    _line(axes, [(edge, ROWS[2]), (left, ROWS[2]), (left, ROWS[0]), (edge, ROWS[0])], colour)
    axes.text(
        left - 0.1, (ROWS[0] + ROWS[2]) / 2, "next line or replan", rotation=90, ha="center", va="center", fontsize=9, color=colour
    )


def _legend(axes: Axes) -> None:
    handles = [Patch(fc=f"{colour}22", ec=colour, label=package) for package, colour in COLOURS.items()]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncol=len(handles), frameon=False, fontsize=9)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/figures/data-path.png"))
