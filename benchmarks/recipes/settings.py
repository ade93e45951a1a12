"""Facts under which a file of results was measured: a file of other facts is not continued."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.models.files import FileError, read_json_object, reading


def refuse_other(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], remedy: str) -> None:
    """Raise ``FileError``, naming each difference, where a file of the setting ``old`` is to be continued with ``new``.

    Facts that only one of them has are no difference.
    """
    changed = [key for key, value in new.items() if old.get(key, value) != value]
    if changed:
        differences = "; ".join(f"{key} was {old[key]!r}, now {new[key]!r}" for key in changed)
        raise FileError(f"{path} holds another study: {differences}. To keep it, {remedy}")


def read_study(path: Path, form: str, setting: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Read a file of results that is to be continued.

    Parameters
    ----------
    path
        The file.
    form
        Name of its format.
    setting
        Facts under which the results to come are measured.
    remedy
        What to do where the file cannot be continued.

    Raises
    ------
    FileError
        For a damaged file, and for one of another format or setting.
    """
    content = read_json_object(path, remedy)
    if content.get("format") != form:
        raise FileError(f"{path} has the format {content.get('format')!r}, not {form!r}: {remedy}")
    with reading(path, remedy):
        refuse_other(path, content["setting"], setting, remedy)
    return content


def with_tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of a JSON file with tuples for its lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
