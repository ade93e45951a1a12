"""What a text environment may say in ``info``, checked. A key that is missing or ``None`` says nothing."""

from collections.abc import Mapping, Set
from numbers import Real
from typing import Any

from agents.textworld.actions import ActionList

Info = Mapping[str, Any]
PERCENT = 100
"""Subgoals that stand for the whole task where an environment gives its progress as a share."""


def read_actions(info: Info) -> ActionList:
    """Read ``valid_actions``.

    Parameters
    ----------
    info
        What the environment's last step returned.

    Returns
    -------
    ActionList
        The actions; those of a set in alphabetical order, so that an episode can be repeated.

    Raises
    ------
    ValueError
        For a single string.
    """
    said = info.get("valid_actions")
    if isinstance(said, str):
        raise ValueError(f"info['valid_actions'] is the string {said!r}: give a list of strings, one per action")
    texts = [] if said is None else [str(action) for action in said]
    return ActionList(sorted(texts) if isinstance(said, Set) else texts)


def read_progress(info: Info) -> tuple[int, int] | None:
    """Read ``progress``.

    Parameters
    ----------
    info
        What the environment's last step returned.

    Returns
    -------
    tuple of int or None
        Subgoals reached and subgoals of the task. A share from 0 to 1 is given in percent: 0.25 is 25 of 100.

    Raises
    ------
    ValueError
        For anything but a share or a pair of whole numbers.
    """
    said = info.get("progress")
    if said is None:
        return None
    if isinstance(said, Real):
        if 0 <= (share := float(said)) <= 1:
            return round(PERCENT * share), PERCENT
    elif len(pair := tuple(said)) == 2 and all(int(number) == number for number in pair) and 0 <= pair[0] <= pair[1]:
        return int(pair[0]), int(pair[1])
    raise ValueError(
        f"info['progress'] is {said!r}: give a share from 0 to 1, or whole numbers (subgoals reached, subgoals of the task)"
    )


def read_texts(info: Info, key: str) -> tuple[str, ...]:
    """Read a key that holds a text or several: ``disturbances``, ``state``, ``briefing``. A single string is one of them."""
    said = info.get(key)
    if isinstance(said, str):
        return (said,)
    return () if said is None else tuple(str(text) for text in said)
