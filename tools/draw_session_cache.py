"""Draw what each layer of a session holds over three replans, as ``docs/figures/session-cache.png``.

The replans are those of the recorded episode that ships, answered by the bundled planner with the recorded answers.
Run it from the repository root: ``.venv/bin/python tools/draw_session_cache.py [FILE]``.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from numpy.typing import NDArray

from erecap.engine.decode import DecodeOptions
from erecap.models.loading import load_model, load_pruner
from erecap.profiling.replan_trace import ReplanTrace, TracedReplan, bundled_trace
from erecap.schedule import PruneSchedule
from erecap.selectors import LearnedSelector
from erecap.sessions.session import ReplanSession

LENGTH, REPLANS = 2600, 3
"""Prompt tokens at the last replan, and the number of replans."""
KEEP, STAGES = 0.5, "0-5"
"""Keep ratio of each stage, and the layers that have one behind them."""
KINDS = {"not held": "#f2f2f2", "held from a replan before": "#9fc5e8", "run at this replan": "#1f6f9f", "protected": "#e69138"}
"""What a cell of the picture shows, in rising order, and its colour."""


@dataclass(frozen=True)
class Turn:
    """What a session held after a replan's prompt.

    Attributes
    ----------
    held
        Tokens per layer, by kind: indices of ``KINDS``, int8 ``(layers, tokens)``.
    new
        Number of tokens that were run.
    share
        Keys and values held, as a share of those of an unpruned session.
    """

    held: NDArray[np.int8]
    new: int
    share: float


def make_session() -> ReplanSession:
    """Make a session of the bundled planner and its pruner."""
    loaded = load_model(dtype="float32")
    schedule = PruneSchedule.of_stages(STAGES, loaded.model.config.num_hidden_layers, KEEP).by_rule("chunk_top_k")
    return ReplanSession(loaded.model, schedule, LearnedSelector(load_pruner(None, loaded), schedule))


def play(session: ReplanSession, trace: ReplanTrace, replans: Sequence[TracedReplan]) -> list[Turn]:
    """Give a session the prompts of ``replans``, one after the other, and the recorded answers to them."""
    turns = []
    for replan in replans:
        turns.append(_take_in(session, trace, replan))
        script = DecodeOptions(max_new_tokens=len(replan.answer), script=replan.answer)
        list(session.plan(script))
    return turns


def _take_in(session: ReplanSession, trace: ReplanTrace, replan: TracedReplan) -> Turn:
    prompt = trace.prompt(replan.prompt)
    reused = session.extend(prompt).reused_tokens
    kinds = np.zeros((len(session.kept), len(prompt)), np.int8)
    for row, positions in zip(kinds, session.kept, strict=True):
        row[positions] = np.where(prompt.protected[positions], 3, np.where(positions < reused, 1, 2))
    return Turn(kinds, len(prompt) - reused, float((kinds > 0).mean()))


def draw(turns: Sequence[Turn], path: Path) -> None:
    """Draw a panel for each turn, one below the other, and write the figure to ``path``."""
    figure, panels = plt.subplots(len(turns), 1, figsize=(9, 1.7 * len(turns) + 0.8), sharex=True, layout="constrained")
    for number, (panel, turn) in enumerate(zip(panels, turns, strict=True), 1):
        _draw_turn(panel, turn, number)
    panels[-1].set_xlabel("token of the prompt")
    handles = [Patch(facecolor=colour, edgecolor="#999999", label=kind) for kind, colour in KINDS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(KINDS), frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_turn(panel: Axes, turn: Turn, number: int) -> None:
    layers, tokens = turn.held.shape
    colours = ListedColormap(list(KINDS.values()))
    extent = (0, tokens, layers - 0.5, -0.5)
    panel.imshow(turn.held, cmap=colours, aspect="auto", interpolation="nearest", vmin=0, vmax=len(KINDS) - 1, extent=extent)
    panel.set_title(f"replan {number}: {tokens} tokens, {turn.new} of them run; {turn.share:.0%} of the cache held", fontsize=10)
    panel.set_ylabel("layer")
    panel.set_yticks(range(layers))


def main() -> None:
    """Draw the figure."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs/figures/session-cache.png")
    trace = ReplanTrace.load(bundled_trace())
    replans, _ = trace.window(LENGTH, REPLANS)
    draw(play(make_session(), trace, replans), path)


if __name__ == "__main__":
    main()
