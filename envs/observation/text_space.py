"""Observation spaces of text environments."""

from typing import Any

from gymnasium import spaces

_KEYS = ("text", "observation", "obs")
"""Usual names of the entry that holds the text."""


def text_key(space: spaces.Space[Any]) -> str | None:
    """Find the text in an observation.

    Parameters
    ----------
    space
        The observation space.

    Returns
    -------
    str or None
        Key of a ``Dict``'s text: ``text``, ``observation`` or ``obs``, else its first ``Text`` entry. Empty where the observation
        itself is the text; ``None`` where there is no text.
    """
    if isinstance(space, spaces.Text):
        return ""
    entries = space.spaces.items() if isinstance(space, spaces.Dict) else ()
    texts = [key for key, entry in entries if isinstance(entry, spaces.Text)]
    return next((key for key in (*_KEYS, *texts) if key in texts), None)


def holds_text(space: spaces.Space[Any]) -> bool:
    """Tell whether observations are text: a ``Text`` space, or a ``Dict`` with a ``Text`` entry."""
    return text_key(space) is not None


def outline(space: spaces.Space[Any]) -> str:
    """Name a space, and the entries of a ``Dict``, such as ``Dict(left: Discrete, right: Discrete)``."""
    if not isinstance(space, spaces.Dict):
        return type(space).__name__
    return f"Dict({', '.join(f'{key}: {type(entry).__name__}' for key, entry in space.items())})"
