"""Arguments of ``reset`` and ``step``, checked before anything changes."""

import operator
from typing import Any

from minigrid.core.actions import Actions


def check_seed(seed: Any) -> int | None:
    """Read the seed of an episode.

    Parameters
    ----------
    seed
        An integer of any type, numpy's included, or ``None``.

    Returns
    -------
    int or None
        The seed as a plain integer.

    Raises
    ------
    ValueError
        For anything else, and for a negative number.
    """
    if seed is None:
        return None
    number = None if isinstance(seed, bool) else _integer(seed)
    if number is None or number < 0:
        raise ValueError(f"seed={seed!r} must be an integer of at least 0, or None for the next episode of the environment's own")
    return number


def check_action(action: Any) -> int:
    """Return one of minigrid's seven actions as a plain integer. Raise ``ValueError`` for anything else."""
    number = _integer(action)
    if number is None or not 0 <= number < len(Actions):
        known = ", ".join(f"{int(known)} {known.name}" for known in Actions)
        raise ValueError(f"Unknown action {action!r}: choose from {known}")
    return number


def refuse_options(options: dict[str, Any] | None, env: str) -> None:
    """Raise ``ValueError`` for options of ``reset``: an environment named ``env`` has none."""
    if options:
        names = ", ".join(map(repr, options))
        raise ValueError(f"reset option {names} is unknown: {env} takes none; give parameters to envs.make_env or gymnasium.make")


def _integer(value: Any) -> int | None:
    """Return an integer of any type as a plain one; ``None`` for what is no integer, such as 1.0."""
    try:
        return operator.index(value)
    except TypeError:
        return None
