"""A prompt as a picture: panels with its text, each token coloured by its saliency, its score, or its verdict.

The verdict says which stage dropped the token, if any. Saliency and scores are coloured by rank among the prompt's tokens, since
ranks decide what is dropped, and saliency spans orders of magnitude. Tokens without a value (protected, or dropped at an earlier
stage) have a white background.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from benchmarks.token_views.page import Page, Piece, lay_out_page
from benchmarks.token_views.view import GUARDED, KEPT, Pruning, TokenView
from erecap.training.sequences import Float32

WHITE, TEXT, FADED = "#FFFFFF", "#1A1A1A", "#8A8A8A"
GUARDED_COLOR, KEPT_COLOR = "#D9DEE4", "#BFE3C0"
UNKNOWN_CHARACTER = "\N{WHITE SQUARE}"

FONT = FontProperties(family="DejaVu Sans Mono")
POINT = 1 / 72
FONT_INCHES = 7.5 * POINT
CHARACTER = 0.602 * FONT_INCHES  # inches: width of each character of the font
LINE = 1.42 * FONT_INCHES
MARGIN, GAP, HEADING, TITLE, LEGEND, SCALE = 0.25, 0.3, 0.26, 0.6, 3.6, 0.7
VERDICT = 0.19  # inches: height of a line of the legend
MIN_WIDTH = 9.0  # inches: room for the title if the text is narrow


@dataclass(frozen=True)
class Panel:
    """One drawing of the prompt.

    Attributes
    ----------
    heading
        Title of the panel.
    colors
        Background colour of each token. Tokens on white are written in grey.
    """

    heading: str
    colors: tuple[str, ...]


def picture(view: TokenView, stages: Sequence[int] | None = None, columns: int = 100, max_tokens: int = 600) -> Figure:
    """Draw a row of panels for saliency and, with a pruner, a row for its scores. Verdicts and legend are beside them.

    Parameters
    ----------
    view
        The prompt and its values.
    stages
        Layers of the stages, one panel each; chosen by ``choose_stages`` by default.
    columns
        Width of a line in characters.
    max_tokens
        Most tokens in the picture; the middle of a longer prompt is left out.

    Raises
    ------
    ValueError
        For a stage without saliency and scores, and for a page that is too small.
    """
    page = lay_out_page([_drawable(text) for text in view.texts], columns, max_tokens)
    rows = panels(view, choose_stages(view, stages))
    stages_pruned = None if view.pruning is None else len(view.pruning.schedule.stages)
    sheet, letters = _Sheet(page, len(rows[0]), len(rows), stages_pruned), [_outline(piece) for piece in page.pieces]
    sheet.title(view.title, _subtitle(view, page))
    for number, row in enumerate(rows):
        for column, panel in enumerate(row):
            _draw_panel(sheet.panel(number, column, panel.heading), page, letters, panel.colors)
    _draw_legend(sheet, view)
    return sheet.figure


def choose_stages(view: TokenView, stages: Sequence[int] | None = None) -> tuple[int, ...]:
    """Return ``stages``, or by default the first, middle and last stage.

    The default chooses among the stages that have both saliency and scores, or among all where none has both.

    Raises
    ------
    ValueError
        For stages without saliency and scores.
    """
    pruned = [] if view.pruning is None else [stage.after_layer for stage in view.pruning.schedule.stages]
    known = sorted({*view.saliency, *pruned})
    if stages is not None:
        unknown = [stage for stage in stages if stage not in known]
        if unknown or not stages:
            raise ValueError(f"stages after layers {unknown} are not known here: choose from {', '.join(map(str, known))}")
        return tuple(stages)
    scored = view.saliency if view.pruning is None else view.pruning.scores
    both = [stage for stage in known if stage in view.saliency and stage in scored] or known
    return tuple(dict.fromkeys(both[i] for i in (0, len(both) // 2, len(both) - 1)))


def panels(view: TokenView, stages: Sequence[int]) -> list[list[Panel]]:
    """Make the rows of panels: saliency and, at its end, the verdicts; then, with a pruner, its scores."""
    saliency = [_ranked("saliency", stage, view.saliency.get(stage), "not collected", SALIENCY_MAP, view) for stage in stages]
    if view.pruning is None:
        return [saliency]
    known = view.pruning.scores
    scores = [_ranked("pruner score", s, known.get(s), "nothing is dropped here", SCORE_MAP, view) for s in stages]
    return [[*saliency, verdict_panel(view.pruning)], scores]


def verdict_panel(pruning: Pruning) -> Panel:
    """Make the panel of the verdicts."""
    palette = verdict_palette(pruning)
    heading = f"verdict, at keep {pruning.schedule.stages[0].keep:g} of the current length per stage"
    return Panel(heading, tuple(palette[int(verdict)] for verdict in pruning.verdicts))


def verdict_palette(pruning: Pruning) -> dict[int, str]:
    """Choose the colour of each verdict: the earlier a token is dropped, the darker."""
    count = len(pruning.schedule.stages)
    dropped = {stage: to_hex(VERDICT_MAP(1 - stage / max(1, count - 1))) for stage in range(count)}
    return {GUARDED: GUARDED_COLOR, KEPT: KEPT_COLOR, **dropped}


def _part(name: str, low: float, high: float) -> Colormap:
    """Cut a colour map to the part on which dark text is readable."""
    return LinearSegmentedColormap.from_list(name, colormaps[name](np.linspace(low, high, 64)))


SALIENCY_MAP, SCORE_MAP, VERDICT_MAP = _part("Purples", 0.06, 0.66), _part("Blues", 0.05, 0.62), _part("YlOrRd", 0.06, 0.68)


def _ranked(name: str, stage: int, values: Float32 | None, missing: str, colors: Colormap, view: TokenView) -> Panel:
    heading = f"{name} after layer {stage}"
    if values is None:
        return Panel(f"{heading}: {missing}", (WHITE,) * len(view.texts))
    at_stake = values if view.pruning is None else np.where(view.pruning.verdicts == GUARDED, np.nan, values)
    return Panel(heading, _rank_colors(at_stake, colors))


def _rank_colors(values: Float32, colors: Colormap) -> tuple[str, ...]:
    known = ~np.isnan(values)
    shares = np.zeros(len(values))
    shares[known] = values[known].argsort(kind="stable").argsort(kind="stable") / max(1, known.sum() - 1)
    return tuple(to_hex(colors(share)) if there else WHITE for share, there in zip(shares, known, strict=True))


def _subtitle(view: TokenView, page: Page) -> str:
    note = f", of which {page.left_out} in the middle are left out here" if page.left_out else ""
    grey = "without saliency" if view.pruning is None else "protected, without saliency, or dropped at an earlier stage"
    return f"{len(view.texts)} tokens{note}; in grey: {grey}"


class _Sheet:
    """A figure laid out in inches: a title, rows of panels of one size, and the legend.

    The legend takes the place of the last panel. Without pruning (``stages_pruned`` is ``None``) it is below the panels.
    """

    def __init__(self, page: Page, columns: int, rows: int, stages_pruned: int | None) -> None:
        self._page, self._last, self._below = page, (rows - 1, columns - 1), stages_pruned is None
        self._width, self._height = max(page.columns * CHARACTER, LEGEND), page.lines * LINE
        below = SCALE if stages_pruned is None else max(0.0, 2 * SCALE + (stages_pruned + 3) * VERDICT - self._height)
        self._full = (
            max(2 * MARGIN + columns * self._width + (columns - 1) * GAP, MIN_WIDTH),
            2 * MARGIN + TITLE + rows * (self._height + HEADING + GAP) + below,
        )
        self.figure = Figure(figsize=self._full)

    def title(self, text: str, below: str) -> None:
        """Write the title and a line below it."""
        width, height = self._full
        self.figure.text(MARGIN / width, 1 - MARGIN / height, text, fontsize=12, weight="bold", va="top", color=TEXT)
        self.figure.text(MARGIN / width, 1 - (MARGIN + 0.25) / height, below, fontsize=9.5, va="top", color="#555555")

    def panel(self, row: int, column: int, heading: str) -> Axes:
        """Make empty axes whose units are characters (x) and lines (y, downwards) of the page."""
        axes = self.axes(*self._corner(row, column), self._page.columns * CHARACTER, self._page.lines * LINE)
        axes.set(xlim=(0, self._page.columns), ylim=(self._page.lines, 0))
        axes.set_title(heading, loc="left", fontsize=10, pad=4, color=TEXT)
        return axes

    def legend_corner(self) -> tuple[float, float]:
        """Return (left, top) of the legend in inches."""
        return (MARGIN, self._full[1] - MARGIN - SCALE) if self._below else self._corner(*self._last)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Make bare axes; all sizes are in inches, from the left and the top of the figure."""
        full_width, full_height = self._full
        place = (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
        axes = self.figure.add_axes(place)
        axes.axis("off")
        return axes

    def _corner(self, row: int, column: int) -> tuple[float, float]:
        left = MARGIN + column * (self._width + GAP)
        return left, MARGIN + TITLE + HEADING + row * (self._height + HEADING + GAP)


def _draw_panel(axes: Axes, page: Page, letters: Sequence[Outline | None], colors: Sequence[str]) -> None:
    owned = [piece for piece in page.pieces if piece.token >= 0]
    faces = [colors[piece.token] for piece in owned]
    axes.add_collection(PolyCollection([_box(p) for p in owned], facecolors=faces, edgecolors=WHITE, linewidths=0.35))
    faded = [piece.token < 0 or colors[piece.token] == WHITE for piece in page.pieces]
    for wanted, color in ((True, FADED), (False, TEXT)):
        drawn = [letter for letter, is_faded in zip(letters, faded, strict=True) if letter is not None and is_faded == wanted]
        if drawn:
            axes.add_patch(PathPatch(Outline.make_compound_path(*drawn), facecolor=color, linewidth=0))


def _box(piece: Piece) -> list[tuple[float, float]]:
    left, right, top, bottom = piece.column, piece.column + len(piece.text), piece.line, piece.line + 1
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _outline(piece: Piece) -> Outline | None:
    """Outline the piece's glyphs, in characters and lines. Text would be rounded to pixels and drift from its columns."""
    if not piece.text.strip():
        return None
    letters = TextPath((0, 0), piece.text.replace("$", r"\$"), size=1.0, prop=FONT)
    points = letters.vertices * [FONT_INCHES / CHARACTER, -FONT_INCHES / LINE] + [piece.column, piece.line + 0.72]
    return Outline(points, letters.codes)


def _drawable(text: str) -> str:
    """Replace each character that the font does not have by a box."""
    font = get_font(findfont(FONT))
    return "".join(c if c == "\n" or font.get_char_index(ord(c)) else UNKNOWN_CHARACTER for c in text)


def _draw_legend(sheet: _Sheet, view: TokenView) -> None:
    left, top = sheet.legend_corner()
    scales = [("saliency, rank among the prompt's tokens", SALIENCY_MAP)]
    if view.pruning is not None:
        scales.append(("pruner score, rank among what the stage may drop", SCORE_MAP))
        _draw_verdicts(sheet.axes(left, top + SCALE * len(scales), LEGEND, 0.1), view.pruning)
    for number, (label, colors) in enumerate(scales):
        _draw_scale(sheet, sheet.axes(left, top + 0.1 + SCALE * number, LEGEND, 0.14), label, colors)


def _draw_scale(sheet: _Sheet, axes: Axes, label: str, colors: Colormap) -> None:
    axes.axis("on")
    bar = sheet.figure.colorbar(ScalarMappable(Normalize(0, 100), colors), cax=axes, orientation="horizontal")
    bar.set_ticks([0, 50, 100], labels=["lowest", "median", "highest"])
    bar.outline.set_visible(False)
    axes.set_title(label, loc="left", fontsize=9, pad=4)
    axes.tick_params(labelsize=8, length=2)
    first, *_, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def _draw_verdicts(axes: Axes, pruning: Pruning) -> None:
    palette, total = verdict_palette(pruning), len(pruning.verdicts)
    names = {stage: f"dropped after layer {s.after_layer}" for stage, s in enumerate(pruning.schedule.stages)}
    names = {**names, KEPT: "kept to the last layer", GUARDED: "protected: no stage may drop it"}
    counts: NDArray[np.int64] = np.array([(pruning.verdicts == verdict).sum() for verdict in names])
    labels = [f"{name}: {count} tokens ({100 * count / total:.0f}%)" for name, count in zip(names.values(), counts, strict=True)]
    handles = [Patch(facecolor=palette[verdict], edgecolor="#BBBBBB", linewidth=0.5) for verdict in names]
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9, borderaxespad=0, borderpad=0,
        title="verdict", title_fontsize=9, alignment="left",
    )  # fmt: skip
