"""Plans as text: one skill per line.

Numbering, bullets, quotes, case and code fences make no difference. A line that still is no skill is an error, not a guess.
"""

import re
from dataclasses import dataclass

from planner.skills import SKILLS, SkillCall

_BULLET = re.compile(r"^\s*(?:[-*•>]+|\(?\d+\s*[.):]|step\s+\d+\s*[:.)-])\s*", re.IGNORECASE)
_FENCE = re.compile(r"^\s*```\w*\s*$")
_QUOTES = re.compile("[\"`\u201c\u201d]|(?<!\\w)['\u2018]|['\u2019](?!\\w)")
_SEVERAL = re.compile(r"[,;#]")
_LABEL = re.compile(r"^\s*(?:plan|answer)\s*:\s*", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(?:the|a|an)\s+", re.IGNORECASE)
_AROUND = " \"'`*.,;\u2018\u2019\u201c\u201d"
"""Straight and curly quotes, marks of emphasis, and closing punctuation."""
_PAIRS = (('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"))
"""Opening and closing quotes that may stand around a whole line."""
_ALIASES = (
    (re.compile(r"^(?:go to|navigate to|walk to|go_to)\b"), "goto"),
    (re.compile(r"^(?:pick up|pick_up)\b"), "pickup"),
)


class PlanParseError(ValueError):
    """An error for a plan that cannot be read.

    Parameters
    ----------
    line
        Number of the line, from 1.
    text
        The line.
    reason
        Why it cannot be read.
    remedy
        How to write a plan instead.
    """

    def __init__(self, line: int, text: str, reason: str, remedy: str = "write one skill per line, such as 'goto kitchen'") -> None:
        self.line, self.text, self.reason = line, text, reason
        super().__init__(f"line {line} {text!r}: {reason}; {remedy}")


@dataclass(frozen=True)
class Plan:
    """The skills to carry out."""

    skills: tuple[SkillCall, ...]
    """The skills in order, at least one."""

    @property
    def text(self) -> str:
        """The plan in its canonical form: one skill per line."""
        return "\n".join(skill.text for skill in self.skills)


def parse_plan(text: str) -> Plan:
    """Read a planner's answer.

    Parameters
    ----------
    text
        The answer.

    Returns
    -------
    Plan
        Its skills.

    Raises
    ------
    PlanParseError
        At the first line that is no skill, and for an answer without any.
    """
    skills = [parse_skill(line, number) for number, line in enumerate(text.splitlines(), 1) if plan_line(line)]
    if not skills:
        raise PlanParseError(1, text[:80], "there is no skill in the answer")
    return Plan(tuple(skills))


def parse_skill(line: str, number: int = 1) -> SkillCall:
    """Read one line of a plan.

    Parameters
    ----------
    line
        The line as the planner wrote it.
    number
        Number of the line in the answer, from 1, for the error.

    Returns
    -------
    SkillCall
        The skill with its arguments.

    Raises
    ------
    PlanParseError
        For an unknown skill, a wrong number of arguments, and a name with punctuation in it.
    """
    content = plan_line(line)
    for pattern, name in _ALIASES:
        content = pattern.sub(name, content)
    name, _, rest = content.partition(" ")
    spec = SKILLS.get(name)
    if spec is None:
        raise PlanParseError(number, line, f"unknown skill {name!r}, the skills are {', '.join(SKILLS)}")
    rest = without_articles(rest)
    if several := _SEVERAL.search(rest):
        raise PlanParseError(number, line, f"{several[0]!r} is in no name")
    if spec.arity == 2:
        return _two_arguments(spec.name, rest, line, number)
    if bool(rest) != bool(spec.arity):
        raise PlanParseError(number, line, f"{name} takes {'one argument' if spec.arity else 'no argument'}")
    return SkillCall(name, (rest,) if rest else ())


def _two_arguments(name: str, rest: str, line: str, number: int) -> SkillCall:
    for joint in SKILLS[name].joints:
        parts = [part.strip() for part in rest.split(f" {joint} ")]
        if len(parts) > 1 and all(parts):
            at = _target(parts)
            return SkillCall(name, (f" {joint} ".join(parts[:at]), f" {joint} ".join(parts[at:])), joint)
    raise PlanParseError(number, line, f"{name} takes two arguments: '{name} X next to Y' or '{name} X in Y'")


def _target(parts: list[str]) -> int:
    """Return the index of the part that begins the second argument: the first box after the first part, else the second part."""
    boxes = [number for number, part in enumerate(parts) if number and "box" in part.split()]
    return boxes[0] if boxes else 1


def plan_line(line: str) -> str:
    """Clean one line of an answer: lower case, no numbering, bullets, quotes, fences or closing punctuation; maybe empty."""
    if _FENCE.match(line):
        return ""
    line = _QUOTES.sub(" ", _unnumbered(line))
    return " ".join(line.lower().replace("(", " ").replace(")", " ").split()).strip(_AROUND)


def spelled_line(line: str) -> str:
    """Clean one line of an answer but keep its spelling: only what stands around it goes; maybe empty."""
    if _FENCE.match(line):
        return ""
    line = _unnumbered(line).strip(" \t*`").rstrip(".,;")
    quoted = len(line) > 1 and (line[0], line[-1]) in _PAIRS and line[0] not in line[1:-1]
    return line[1:-1].strip() if quoted else line


def without_articles(text: str) -> str:
    """Leave out the words "the", "a" and "an"."""
    return " ".join(_ARTICLE.sub("", text).split())


def _unnumbered(line: str) -> str:
    """Return the line without a number, a bullet, or a label such as ``Plan:`` in front."""
    return _LABEL.sub("", _BULLET.sub("", _LABEL.sub("", line)))
