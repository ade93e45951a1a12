"""Observation spaces of text environments."""

from typing import Any

from gymnasium import spaces


def holds_text(space: spaces.Space[Any]) -> bool:
    """Tell whether observations are text: a ``Text`` space, or a ``Dict`` with a ``Text`` entry."""
    entries = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return any(isinstance(entry, spaces.Text) for entry in entries)
