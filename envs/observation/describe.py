"""The observation as text: what the agent did, what it saw, and where it stands in its task.

The text says only what the agent has seen. ``terse`` mentions what is new or has changed since the last report; ``verbose`` also
mentions everything in view, with its position. Both name a thing with its room ("red ball in kitchen") and end with the rooms, the
progress and the open subgoal, so that the latest report alone says what to plan for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verbosity = Literal["terse", "verbose"]
"""How much an observation says: what is new, or everything in view."""
COMPASS = ("east", "south", "west", "north")
"""Minigrid's four directions, by index."""
_AHEAD = ("ahead", "behind")
_SIDE = ("right", "left")


@dataclass(frozen=True)
class Mention:
    """A thing as a report mentions it."""

    name: str
    """Its name, such as ``red door``."""
    room: str
    """Name of its room."""
    condition: str = ""
    """Its condition, such as ``closed``; empty where there is nothing to say."""
    ahead: int = 0
    """Steps from the agent straight ahead; negative behind it."""
    right: int = 0
    """Steps from the agent to the right; negative to the left."""

    @property
    def text(self) -> str:
        """The mention in words, such as ``red door in kitchen locked``."""
        return f"{self.name} in {self.room} {self.condition}".strip()


@dataclass(frozen=True)
class News:
    """The content of the entry after one skill."""

    skill: str
    """The skill."""
    outcome: str
    """Its outcome."""
    fresh: tuple[Mention, ...]
    """Things that are new or have changed since the last entry."""
    gone: tuple[str, ...]
    """Names of things that have vanished from where they were seen."""
    room: str
    """Name of the agent's room."""
    held: str
    """Name of the held thing; empty where the hand is empty."""
    done: int
    """Number of subgoals reached."""
    total: int
    """Number of all subgoals."""


@dataclass(frozen=True)
class Report:
    """The content of one observation."""

    outcomes: tuple[tuple[str, str], ...]
    """Each skill since the last report with its outcome, oldest first."""
    fresh: tuple[Mention, ...]
    """Things that are new or have changed since the last report."""
    in_view: tuple[Mention, ...]
    """Things in view now."""
    gone: tuple[str, ...]
    """Names of things that have vanished from where they were seen."""
    room: str
    """Name of the agent's room."""
    held: str
    """Name of the held thing; empty where the hand is empty."""
    rooms: tuple[str, ...]
    """Names of the rooms of which something was seen."""
    unexplored: bool
    """Whether the agent can walk up to a cell that it has not seen."""
    locked: tuple[Mention, ...]
    """Locked doors that the agent can walk up to."""
    blocked: tuple[tuple[str, str], ...]
    """Each room or thing that cannot be reached, with what blocks the way."""
    unopened: tuple[Mention, ...]
    """Closed boxes that the agent can walk up to."""
    done: int
    """Number of subgoals reached."""
    total: int
    """Number of all subgoals."""
    subgoal: str
    """Text of the open subgoal; empty where all are done."""
    goals: tuple[str, ...] = ()
    """All open subgoals with their numbers in the task, in the order in which they are due, where the report is to name them; else
    empty."""
    column: int = 0
    """The agent's column in cells."""
    row: int = 0
    """The agent's row in cells."""
    direction: int = 0
    """Where the agent looks, as an index into ``COMPASS``."""


def describe(report: Report, verbosity: Verbosity) -> str:
    """Write an observation as text.

    Parameters
    ----------
    report
        What to say.
    verbosity
        ``terse`` or ``verbose``; the module's docstring says what each mentions.

    Returns
    -------
    str
        One sentence or list per line. The progress and the open subgoal are in the last line; where the report names all open
        subgoals, the last lines name one each.

    Raises
    ------
    ValueError
        For an unknown verbosity.
    """
    writers = {"terse": _terse, "verbose": _verbose}
    if verbosity not in writers:
        raise ValueError(f"verbosity {verbosity!r} is unknown: choose from {', '.join(writers)}")
    return "\n".join([*writers[verbosity](report), *_status(report)])


def note(news: News, verbosity: Verbosity) -> str:
    """Write the short entry after one skill: ``terse``, or ``verbose`` with the positions of what is new."""
    lines = _outcomes([(news.skill, news.outcome)], verbosity)
    lines += _seen(news.fresh) if verbosity == "terse" else _noticed(news.fresh)
    return "\n".join([*lines, *_gone(news.gone), _here(news)])


def task_text(subgoals: list[str]) -> str:
    """Write the task, the first entry of the history, from the texts of its subgoals."""
    return "Task: " + " ".join(f"{number}. {text}." for number, text in enumerate(subgoals, 1))


def _terse(report: Report) -> list[str]:
    return [*_outcomes(report.outcomes, "terse"), *_seen(report.fresh), *_gone(report.gone)]


def _verbose(report: Report) -> list[str]:
    lines = _outcomes(report.outcomes, "verbose")
    lines.append(f"You stand in column {report.column} and row {report.row} of the house and you look {COMPASS[report.direction]}.")
    if not report.fresh and not report.in_view:
        lines.append("You see nothing but the walls and the floor around you.")
    lines += _noticed(report.fresh)
    lines += [f"You see {_placed(mention)}." for mention in report.in_view if mention not in report.fresh]
    return lines + _gone(report.gone)


def _outcomes(outcomes: Iterable[tuple[str, str]], verbosity: Verbosity) -> list[str]:
    form = "{}: {}." if verbosity == "terse" else "You did {} and the outcome was: {}."
    return [form.format(skill, outcome) for skill, outcome in outcomes]


def _seen(mentions: tuple[Mention, ...]) -> list[str]:
    return ["Seen: " + ", ".join(mention.text for mention in mentions) + "."] if mentions else []


def _noticed(mentions: tuple[Mention, ...]) -> list[str]:
    return [f"You notice {_placed(mention)}." for mention in mentions]


def _placed(mention: Mention) -> str:
    """Return the mention with its distance from the agent: steps ahead or behind, and to the left or right."""
    ahead, side = _AHEAD[mention.ahead < 0], _SIDE[mention.right < 0]
    return f"{mention.text}, {abs(mention.ahead)} steps {ahead} and {abs(mention.right)} steps to the {side} of where you stand"


def _gone(names: tuple[str, ...]) -> list[str]:
    return ["Gone: " + ", ".join(names) + "."] if names else []


def _status(report: Report) -> list[str]:
    places = f"Rooms: {', '.join(report.rooms)}. Unexplored: {'yes' if report.unexplored else 'no'}."
    if report.unopened:
        places += " Unopened: " + ", ".join(f"{m.name} in {m.room}" for m in report.unopened) + "."
    if report.locked:
        places += " Locked: " + ", ".join(f"{m.name} in {m.room}" for m in report.locked) + "."
    if report.blocked:
        places += " Blocked: " + ", ".join(f"{room} by {what}" for room, what in report.blocked) + "."
    if report.goals:
        return [places, f"{_here(report)} Goals:", *report.goals]
    return [places, f"{_here(report)} Goal: {report.subgoal or 'all done'}."]


def _here(report: Report | News) -> str:
    return f"Progress {report.done}/{report.total}. You are in {report.room}, holding {report.held or 'nothing'}."
