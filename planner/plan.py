"""Plans of skills as text: one skill per line.

What models write around a plan makes no difference (``planner.answer``, ``planner.lines``). A line that still is no skill is an
error, not a guess.
"""

import re
from dataclasses import dataclass
from typing import Protocol

from planner.answer import PlanParseError, answer_steps, first_step
from planner.lines import bare_line, plan_line, spelled_line, without_articles
from planner.skills import SKILLS, SkillCall, SkillSpec

__all__ = [
    "KnownNames",
    "Plan",
    "PlanParseError",
    "first_skill",
    "parse_plan",
    "parse_skill",
    "plan_line",
    "spelled_line",
    "without_articles",
]

_NO_NAME = re.compile(r"->|[,;#|\\:=<>{}\[\]→]")
_CALL = re.compile(
    r"^(\S+)\s*(?:\((?P<round>[^()]*)\)|\[(?P<square>[^\[\]]*)\]|<(?P<angle>[^<>]*)>|\{(?P<curly>[^{}]*)\}|:\s+(?P<colon>.*))$"
)
"""A skill as a call, such as ``goto(kitchen)``, or with a colon behind its name."""
_GROUP = re.compile(r"\(([^()]*)\)?")
_TAIL = re.compile(r"\s(?:#|//|--?|\u2013|—)\s*(?P<remark>.*)$")
_PLACE = re.compile(r"^(?:in|at) (?!order\b|case\b)")


class KnownNames(Protocol):
    """The names that the arguments of skills may have. Its ``str`` tells a planner which they are."""

    def __contains__(self, name: str, /) -> bool:
        """Tell whether the agent knows what the name could mean."""
        ...


@dataclass(frozen=True)
class Plan:
    """The skills to carry out."""

    skills: tuple[SkillCall, ...]
    """The skills in order, at least one."""

    @property
    def text(self) -> str:
        """The plan in its canonical form: one skill per line."""
        return "\n".join(skill.text for skill in self.skills)


def parse_plan(text: str, names: KnownNames | None = None) -> Plan:
    """Read a planner's answer.

    Parameters
    ----------
    text
        The answer.
    names
        The names that arguments are checked against; ``None`` takes any name.

    Returns
    -------
    Plan
        Its skills.

    Raises
    ------
    PlanParseError
        At the first line that is no skill, and for an answer without any.
    """
    skills = [parse_skill(line, number, names) for number, line in answer_steps(text, _begins_with_skill)]
    if not skills:
        raise PlanParseError(1, text[:80], "there is no skill in the answer")
    return Plan(tuple(skills))


def first_skill(so_far: str, names: KnownNames | None = None) -> SkillCall | None:
    """Read the first skill of an answer that is not complete yet.

    Parameters
    ----------
    so_far
        The complete lines of the answer so far.
    names
        The names that arguments are checked against; ``None`` takes any name.

    Returns
    -------
    SkillCall or None
        The first skill that ``parse_plan`` will find if it can read the whole answer (``planner.answer.first_step`` names the
        exceptions); ``None`` as long as it is not certain.
    """
    line = first_step(so_far, _begins_with_skill)
    try:
        return None if line is None else parse_skill(line, names=names)
    except PlanParseError:
        return None


def parse_skill(line: str, number: int = 1, names: KnownNames | None = None) -> SkillCall:
    """Read one line of a plan.

    Parameters
    ----------
    line
        The line as the planner wrote it.
    number
        Number of the line in the answer, from 1, for the error.
    names
        The names that arguments are checked against; ``None`` takes any name.

    Returns
    -------
    SkillCall
        The skill with its arguments.

    Raises
    ------
    PlanParseError
        For an unknown skill, a wrong number of arguments, a second skill on the line, a name with punctuation in it, and a name
        that is not in ``names``.
    """
    try:
        call = _read(line)
        for argument in call.args if names is not None else ():
            _check_name(argument, names)
    except _BadLineError as error:
        raise PlanParseError(number, line, str(error), *error.remedy) from None
    return call


class _BadLineError(Exception):
    """Why a line is no skill, and maybe what to write instead."""

    def __init__(self, reason: str, *remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def _check_name(argument: str, names: KnownNames | None) -> None:
    if names is not None and argument not in names:
        raise _BadLineError(f"nothing here is called {argument!r}", f"use {names}")


def _read(line: str) -> SkillCall:
    content = _canonical_verb(_plain(_canonical_verb(_unwrapped(bare_line(line)))))
    name, _, rest = content.partition(" ")
    spec = SKILLS.get(name)
    if spec is None:
        raise _BadLineError(f"unknown skill {name!r}, the skills are {', '.join(SKILLS)}")
    rest = without_articles(rest)
    if several := _NO_NAME.search(rest):
        raise _BadLineError(f"{several[0]!r} is in no name")
    _check_single(rest)
    if spec.arity == 2:
        return _two_arguments(spec, rest)
    if bool(rest) != bool(spec.arity):
        raise _BadLineError(f"{name} takes {'one argument' if spec.arity else 'no argument'}")
    return SkillCall(name, (rest,) if rest else ())


def _unwrapped(content: str) -> str:
    """Leave out emphasis, parentheses around a whole line, and underscores, which models write for spaces."""
    content = " ".join(content.replace("*", "").replace("_", " ").split())
    whole = content.startswith("(") and content.find(")") == len(content) - 1
    return plan_line(content[1:-1]) if whole else content


def _plain(content: str) -> str:
    """Write a call such as ``goto(kitchen)`` as words, and leave out remarks behind ``#``, a dash or in parentheses."""
    call = _CALL.match(content)
    if call is not None and _takes(call[1], content):
        return plan_line(f"{call[1]} {next(group for group in call.groups()[1:] if group is not None)}")
    tail = _TAIL.search(content)
    if tail is not None:
        _check_remark(tail["remark"])
        content = content[: tail.start()]
    return plan_line(_GROUP.sub(_without_remark, content))


def _without_remark(group: re.Match[str]) -> str:
    """Keep a place in parentheses, such as ``(in kitchen)``; leave out anything else."""
    words = group[1].strip()
    if _PLACE.match(words):
        return f" {words} "
    _check_remark(words)
    return " "


def _takes(name: str, content: str) -> bool:
    """Tell whether brackets behind a name hold arguments: not where a space separates them from a skill without arguments."""
    return name in SKILLS and (SKILLS[name].arity > 0 or not content[len(name) :].startswith(" "))


def _check_remark(words: str) -> None:
    """Refuse a remark that holds a skill, unless it states a purpose (``to pick up the key``)."""
    if not words.startswith("to "):
        _check_single(words)


def _check_single(words: str) -> None:
    """Refuse words behind a skill that hold a second one."""
    second = _SECOND_VERB.search(words)
    if second is not None:
        raise _BadLineError(f"there is more than one skill on the line, {second[0]!r} is the next", "write one skill per line")


def _two_arguments(spec: SkillSpec, rest: str) -> SkillCall:
    for word, meant in spec.other_joints:
        rest = re.sub(rf"(?<= ){word}(?= )", meant, rest)
    for joint in spec.joints:
        parts = [part.strip() for part in rest.split(f" {joint} ")]
        if len(parts) > 1 and all(parts):
            at = _target(parts)
            return SkillCall(spec.name, (f" {joint} ".join(parts[:at]), f" {joint} ".join(parts[at:])), joint)
    raise _BadLineError(f"{spec.name} takes two arguments: '{spec.name} X next to Y' or '{spec.name} X in Y'")


def _target(parts: list[str]) -> int:
    """Return the index of the part that begins the second argument: the first box after the first part, else the second part."""
    boxes = [number for number, part in enumerate(parts) if number and "box" in part.split()]
    return boxes[0] if boxes else 1


def _begins_with_skill(line: str) -> bool:
    """Tell whether a line begins with the name of a skill."""
    return _VERB.match(_unwrapped(bare_line(line))) is not None


def _canonical_verb(content: str) -> str:
    for pattern, name in _OTHER_NAMES:
        content = pattern.sub(name, content, count=1)
    return content


_OTHER_NAMES = tuple((re.compile(rf"^{re.escape(word)}\b"), spec.name) for spec in SKILLS.values() for word in spec.other_names)


def _any_of(*words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b")


_VERBS = [word for spec in SKILLS.values() for word in (*spec.other_names, spec.name)]
_VERB = _any_of(*_VERBS)
"""Any word for any skill."""
_SECOND_VERB = _any_of(*(word for word in _VERBS if word != "place"))
"""A word that stands for a skill wherever it is in a line."""
