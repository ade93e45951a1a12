"""The observation as text: what the agent did, what it saw, and where it stands in its task.

Everything here comes from what the agent has seen; the describer knows nothing else. ``terse`` mentions what is new or has changed
since the last report; ``verbose`` mentions all that is in view as well, with where it lies. Both say "<thing> in <room>" and end
with the status, the progress and the open subgoal, so that the latest report alone says what to plan for.
"""

from dataclasses import dataclass

from envs.household.config import Verbosity

_AHEAD = ("ahead", "behind")
_SIDE = ("right", "left")
COMPASS = ("east", "south", "west", "north")


@dataclass(frozen=True)
class Mention:
    """Something seen: its name, its room, its condition (such as ``closed``), and where it lies from the agent in steps."""

    name: str
    room: str
    condition: str = ""
    ahead: int = 0
    right: int = 0

    @property
    def text(self) -> str:
        """Such as ``red door in kitchen locked``."""
        return f"{self.name} in {self.room} {self.condition}".strip()


@dataclass(frozen=True)
class Report:
    """All that one observation says. ``outcomes`` are (skill, outcome) pairs since the last report."""

    outcomes: tuple[tuple[str, str], ...]
    fresh: tuple[Mention, ...]
    in_view: tuple[Mention, ...]
    gone: tuple[str, ...]
    room: str
    held: str
    rooms: tuple[str, ...]
    unexplored: bool
    locked: tuple[Mention, ...]
    blocked: tuple[tuple[str, str], ...]
    unopened: tuple[Mention, ...]
    done: int
    total: int
    subgoal: str
    column: int = 0
    row: int = 0
    direction: int = 0


def describe(report: Report, verbosity: Verbosity) -> str:
    """The text of an observation. Raises ``ValueError`` for an unknown verbosity."""
    writers = {"terse": _terse, "verbose": _verbose}
    if verbosity not in writers:
        raise ValueError(f"verbosity {verbosity!r} is unknown: choose from {', '.join(writers)}")
    return "\n".join([*writers[verbosity](report), *_status(report)])


def task_text(subgoals: list[str]) -> str:
    """The task as the first entry of the history."""
    return "Task: " + " ".join(f"{number}. {text}." for number, text in enumerate(subgoals, 1))


def _terse(report: Report) -> list[str]:
    lines = [f"{skill}: {outcome}." for skill, outcome in report.outcomes]
    if report.fresh:
        lines.append("Seen: " + ", ".join(mention.text for mention in report.fresh) + ".")
    return lines + _gone(report)


def _verbose(report: Report) -> list[str]:
    lines = [f"You did {skill} and the outcome was: {outcome}." for skill, outcome in report.outcomes]
    lines.append(f"You stand in column {report.column} and row {report.row} of the house and you look {COMPASS[report.direction]}.")
    if not report.fresh and not report.in_view:
        lines.append("You see nothing but the walls and the floor around you.")
    lines += [f"You notice {_placed(mention)}." for mention in report.fresh]
    lines += [f"You see {_placed(mention)}." for mention in report.in_view if mention not in report.fresh]
    return lines + _gone(report)


def _placed(mention: Mention) -> str:
    """The mention with its place: so many steps ahead or behind, left or right of the agent."""
    ahead, side = _AHEAD[mention.ahead < 0], _SIDE[mention.right < 0]
    return f"{mention.text}, {abs(mention.ahead)} steps {ahead} and {abs(mention.right)} steps to the {side} of where you stand"


def _gone(report: Report) -> list[str]:
    return ["Gone: " + ", ".join(report.gone) + "."] if report.gone else []


def _status(report: Report) -> list[str]:
    places = f"Rooms: {', '.join(report.rooms)}. Unexplored: {'yes' if report.unexplored else 'no'}."
    if report.unopened:
        places += " Unopened: " + ", ".join(f"{m.name} in {m.room}" for m in report.unopened) + "."
    if report.locked:
        places += " Locked: " + ", ".join(f"{m.name} in {m.room}" for m in report.locked) + "."
    if report.blocked:
        places += " Blocked: " + ", ".join(f"{room} by {what}" for room, what in report.blocked) + "."
    here = f"You are in {report.room}, holding {report.held or 'nothing'}."
    return [places, f"Progress {report.done}/{report.total}. {here} Goal: {report.subgoal or 'all done'}."]
