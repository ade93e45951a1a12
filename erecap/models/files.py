"""Reading and writing of files. Whatever a library raises in between becomes one error that names the file and the remedy."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SEAL = "checksum"
_LONGEST_REASON = 160
"""Characters of a library's message that are passed on; torch lists all its devices in some."""


class FileError(ValueError):
    """An error for a file that cannot be read or written."""


def fill_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file in the same directory, then rename it to ``path``. Make missing directories.

    Raises
    ------
    FileError
        Where that fails, such as on a full disk. The old file, if there is one, is left as it was.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, path)
    except Exception as error:  # for a full disk torch, safetensors and the system each have errors of their own
        remove_if_there(partial)
        raise FileError(
            f"{path} cannot be written ({reason(error)}): free some space, or name a path that can be written"
        ) from error
    except BaseException:
        remove_if_there(partial)
        raise


def remove_if_there(path: Path) -> None:
    """Remove a file. Do nothing where there is none, nor where its directory is gone or cannot be written."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


@contextmanager
def reading(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read and taken apart into a ``FileError``.

    Parameters
    ----------
    path
        The file, or the directory whose files are read.
    remedy
        What the user can do, the end of the message.
    """
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # parsers of damaged files raise anything
        raise FileError(f"{path} cannot be read ({reason(error)}): {remedy}") from error


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Read a file that holds one JSON object, and check it where it has a checksum.

    Raises
    ------
    FileError
        For anything else, and for an object that was changed. ``remedy`` ends the message.
    """
    with reading(path, remedy):
        text = path.read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a JSON object ({reason(error)}): {remedy}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is not a JSON object: {remedy}")
    written, here = content.pop(_SEAL, None), _digest(content)
    if written not in (None, here):
        raise FileError(
            f"{path} was changed after it was written (checksum {here}, not {written}): {remedy}; or, to take it as it is, remove "
            f"the entry {_SEAL!r}"
        )
    return content


def write_json_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, for ``read_json_object``, atomically. Raise ``FileError`` where that fails."""
    text = json.dumps({**content, _SEAL: _digest(content)}, indent=2) + "\n"
    fill_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _digest(content: Mapping[str, Any]) -> str:
    """Compute a checksum of the values, whatever their order and spelling."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def is_finite_number(value: object) -> bool:
    """Tell whether a value read from JSON is a number, and neither NaN nor infinite. Truth values are no numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def reason(error: BaseException) -> str:
    """Say in one line why something failed, in the words of the error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"{error} is missing"
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON].rsplit(" ", 1)[0] + " ..."
