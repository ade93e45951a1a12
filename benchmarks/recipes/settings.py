"""Facts under which a file of results was measured: a file of other facts is not continued."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.models.files import FileError


def refuse_other(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], remedy: str) -> None:
    """Raise ``FileError``, naming each difference, where a file of the setting ``old`` is to be continued with ``new``.

    Facts that only one of them has are no difference.
    """
    changed = [key for key, value in new.items() if old.get(key, value) != value]
    if changed:
        differences = "; ".join(f"{key} was {old[key]!r}, now {new[key]!r}" for key in changed)
        raise FileError(f"{path} holds another study: {differences}. To keep it, {remedy}")
