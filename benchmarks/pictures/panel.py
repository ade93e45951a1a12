"""The panel beside the map: task, hand, plan, and what the last replan cost."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from agents.records import PlannerCall
from benchmarks.pictures.story import REASONS, Story
from benchmarks.pictures.style import (
    ACCENT,
    BACKGROUND,
    BODY,
    CARD,
    FAINT,
    LINE,
    MARGIN,
    PANEL,
    SMALL,
    STATES,
    TEXT,
    TITLE,
    TONES,
    Color,
)
from benchmarks.pictures.text import cut, font, wrap

_INNER = PANEL - 2 * MARGIN
TASK_LINES, PLAN_LINES = 5, 7


class Pen:
    """A pen that writes a column of lines from top to bottom."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (PANEL, height), BACKGROUND)
        self.draw, self.y = ImageDraw.Draw(self.image), MARGIN

    def line(self, text: str, color: Color = TEXT, size: int = BODY, bold: bool = False, indent: int = 0) -> None:
        """Write one line, shortened where it is too long."""
        face = font(size, bold)
        self.draw.text((MARGIN + indent, self.y), cut(text, face, _INNER - indent), fill=color, font=face)
        self.y += LINE

    def heading(self, text: str, right: str = "") -> None:
        """Write a heading with a rule above it, and a word at its right end."""
        self.y += 5
        self.draw.line((MARGIN, self.y, PANEL - MARGIN, self.y), fill=CARD)
        self.y += 5
        face = font(SMALL, bold=True)
        width = face.getlength(right)
        self.draw.text((MARGIN, self.y), cut(text, face, _INNER - width - 8), fill=FAINT, font=face)
        self.draw.text((PANEL - MARGIN, self.y), right, fill=FAINT, font=face, anchor="ra")
        self.y += LINE - 1

    def marked(self, state: str, text: str) -> None:
        """Write a line of the task or the plan with the mark of its state; the current one stands out."""
        mark, color = STATES[state]
        if state == "now":
            self.draw.rectangle((MARGIN - 4, self.y - 1, PANEL - MARGIN + 4, self.y + LINE - 2), fill=CARD)
        self.draw.text((MARGIN, self.y), mark, fill=color, font=font(BODY, bold=True))
        self.line(text, TEXT if state in ("now", "failed") else FAINT, bold=state == "now", indent=20)

    def bar(self, share: float, color: Color = ACCENT) -> None:
        """Draw a bar of which ``share`` (0 to 1) is filled."""
        left, right = MARGIN, PANEL - MARGIN
        self.draw.rounded_rectangle((left, self.y, right, self.y + 8), 4, fill=CARD)
        if share > 0:
            self.draw.rounded_rectangle(
                (left, self.y, left + max(8, round((right - left) * min(1.0, share))), self.y + 8), 4, fill=color
            )
        self.y += 14


def window(count: int, at: int, size: int) -> range:
    """Return the part of ``count`` lines, ``size`` at most, that shows line ``at`` and what comes next."""
    first = max(0, min(at - 1, count - size))
    return range(first, min(count, first + size))


def draw_panel(story: Story, height: int) -> Image.Image:
    """Draw the panel.

    Parameters
    ----------
    story
        The episode so far; it has had a moment.
    height
        Height of the panel in pixels.

    Returns
    -------
    PIL.Image.Image
        The panel, ``PANEL`` pixels wide.
    """
    pen = Pen(height)
    _head(pen, story)
    _task(pen, story)
    _hand(pen, story)
    _plan(pen, story)
    if story.call is not None:
        _costs(pen, story.call)
    return pen.image


def _head(pen: Pen, story: Story) -> None:
    assert story.moment is not None
    pen.line(story.job.env_id, size=TITLE, bold=True)
    pen.line(f"planner: {story.job.backend}", FAINT)
    pen.line(f"seed {story.job.seed}, step {story.moment.env_step} of {story.moment.max_steps}", FAINT)


def _task(pen: Pen, story: Story) -> None:
    assert story.moment is not None
    progress, subgoals = story.moment.progress, story.moment.scene.subgoals
    pen.heading("TASK", f"{progress.done} of {progress.total} done")
    pen.bar(progress.done / progress.total if progress.total else 0.0, TONES["success"])
    if not subgoals:
        for text in wrap(progress.goal or progress.task, font(BODY), _INNER, TASK_LINES):
            pen.line(text)
        return
    shown = window(len(subgoals), progress.done, TASK_LINES)
    for index in shown:
        state = "done" if index < progress.done else "now" if subgoals[index] == progress.goal else "todo"
        pen.marked(state, f"{index + 1}. {subgoals[index]}")
    _more(pen, len(subgoals), shown)


def _more(pen: Pen, count: int, shown: range) -> None:
    """Say how many lines are left out."""
    if len(shown) < count:
        pen.line(f"({count - len(shown)} more)", FAINT, size=SMALL, indent=20)


def _hand(pen: Pen, story: Story) -> None:
    assert story.moment is not None
    held = story.moment.scene.held
    if held is not None:
        pen.heading("HOLDING")
        pen.line(held or "nothing", TEXT if held else FAINT)


def _plan(pen: Pen, story: Story) -> None:
    number = "" if story.call is None else f"replan {story.call.replan + 1}"
    pen.heading("PLAN", number)
    states = [line.state for line in story.plan]
    shown = window(len(story.plan), _current(states), PLAN_LINES)
    for index in shown:
        pen.marked(story.plan[index].state, story.plan[index].text)
    if not story.plan:
        pen.line("none yet" if story.call is None else "none", FAINT)
    _more(pen, len(story.plan), shown)


def _current(states: Sequence[str]) -> int:
    """Return the line that matters now: the one under way, else the first that is not done."""
    for wanted in ("now", "todo"):
        if wanted in states:
            return states.index(wanted)
    return max(0, len(states) - 1)


def _costs(pen: Pen, call: PlannerCall) -> None:
    made = call.generation
    pen.heading("LAST REPLAN", REASONS[call.reason])
    first = f", first token {_seconds(made.ttft_s)}" if made.prompt_tokens else ""
    pen.line(f"latency {_seconds(call.replan_s)}{first}")
    if not made.prompt_tokens:
        pen.line("no prompt: plans from what the agent has seen", FAINT)
        return
    pen.line(f"prompt {made.prompt_tokens:,} tokens" + (f", {made.reused_tokens:,} from the cache" if made.reused_tokens else ""))
    if made.layer_tokens:
        pen.bar(made.kept_share)
        pen.line(f"{made.kept_share:.0%} of it kept, mean over layers", FAINT)
        pen.line(f"last layer: {made.layer_tokens[-1]:,} kept, {made.dropped_tokens:,} dropped", FAINT)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.1f} ms"
