"""The prompt as ordered segments.

A segment is one chat message. Protected segments must survive pruning: the system text with its list of skills, the task, the
latest observation (and the header of the answer, which the tokenizer side adds and protects).
"""

from dataclasses import dataclass
from typing import Literal

from planner.history import History
from planner.skills import SKILLS

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Segment:
    """One chat message; ``protected`` tokens are never pruned."""

    role: Role
    text: str
    protected: bool = False


@dataclass(frozen=True)
class Prompt:
    """Ordered segments, oldest first; the answer follows the last one."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError("a prompt of 0 segments has nothing to answer: give at least one message")

    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages, as ``apply_chat_template`` takes them."""
        return [{"role": s.role, "content": s.text} for s in self.segments]


def system_text() -> str:
    """The system message: the role of the planner, the form of its answer, the skills."""
    skills = "\n".join(spec.usage for spec in SKILLS.values())
    return (
        "You plan for a household robot. Answer with one skill per line. "
        f"Name things with their room, such as: pickup red ball in kitchen.\nSkills:\n{skills}"
    )


def build_prompt(history: History, system: str | None = None) -> Prompt:
    """Build the prompt of a history as it stands; the task and everything since the latest observation are protected.

    Parameters
    ----------
    history
        The episode so far.
    system
        The system text; the household's ``system_text()`` by default.
    """
    latest = history.latest_observation
    segments = [Segment("system", system_text() if system is None else system, protected=True)]
    for index, entry in enumerate(history.entries):
        role: Role = "assistant" if entry.kind == "plan" else "user"
        segments.append(Segment(role, entry.text, protected=entry.kind == "task" or index >= latest))
    return Prompt(tuple(segments))
