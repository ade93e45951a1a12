"""What a plan can be, as the world stands: what a backend needs to know that answers in a format.

It says which lines can be written, not what they mean. Worlds make it, backends hold an answer to it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

AnswerFormat = Literal["free", "lines", "choice"]
"""How a backend answers: in free text; in lines of the world's grammar; or with one line, chosen among those that can be carried
out now."""
FORMATS: tuple[AnswerFormat, ...] = get_args(AnswerFormat)
Form = tuple[tuple[str, ...], ...]
"""A form of a line: parts in order, each with the texts that may stand there. The line is one text of each part, joined."""


@dataclass(frozen=True)
class PlanGrammar:
    """The lines that a plan can have, and those that can be carried out now. Raises ``ValueError`` where no line can be written."""

    forms: tuple[Form, ...]
    """The forms of lines. One with an empty part cannot be written, such as a skill for which no thing is known."""
    numbers: tuple[int, ...] = ()
    """Numbers that may stand before a line, as in ``3. explore``; empty where plans are not numbered."""
    choices: tuple[str, ...] = ()
    """The lines that can be carried out now, as a plan of one line."""

    def __post_init__(self) -> None:
        if not self.written:
            raise ValueError("a grammar without a line leaves nothing to answer: give at least one form whose parts have texts")

    @property
    def written(self) -> tuple[Form, ...]:
        """The forms that can be written."""
        return tuple(form for form in self.forms if form and all(form))


def whole_lines(*lines: str) -> Form:
    """Return the form of lines that are written as they are."""
    return (lines,)
