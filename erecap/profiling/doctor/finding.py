"""The finding of a check."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes
    ----------
    name
        What was looked at.
    status
        ``ok``; ``warning``, where something is slow or missing that only some commands need; ``error``, where nothing will work.
    found
        What is there.
    remedy
        What to do about it; empty for ``ok``.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""
