"""Reading and writing of files. Whatever a library raises in between becomes one error that names the file and the remedy."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    """Read a file that holds one JSON object. Raise ``FileError`` for anything else; ``remedy`` ends the message."""
    with reading(path, remedy):
        text = path.read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a JSON object ({reason(error)}): {remedy}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is not a JSON object: {remedy}")
    return content


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
