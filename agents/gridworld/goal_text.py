"""Subgoals as text: the verb, and the things and rooms behind it."""

import re

VERBS = ("bring", "put", "open", "unlock", "go to", "pick up", "inspect")
"""How subgoals begin."""
_JOINTS = re.compile(" next to | in | to ")


def split_goal(goal: str) -> tuple[str, str]:
    """Split a subgoal into its verb, one of ``VERBS``, and the rest. Raises ``ValueError`` for one of an unknown form."""
    verb = _verb_of(goal)
    if verb is None:
        raise ValueError(f"subgoal {goal!r} is of no known form: it must begin with one of {list(VERBS)}")
    return verb, goal.removeprefix(f"{verb} ")


def things_named(goal: str) -> list[str]:
    """List the things and rooms that a subgoal names, by their descriptions; none for one of an unknown form."""
    verb = _verb_of(goal)
    return _JOINTS.split(goal.removeprefix(f"{verb} ")) if verb else []


def _verb_of(goal: str) -> str | None:
    return next((verb for verb in VERBS if goal.startswith(f"{verb} ")), None)
