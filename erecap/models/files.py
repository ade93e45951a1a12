"""Atomic writing of files."""

import os
from collections.abc import Callable
from pathlib import Path


def fill_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file in the same directory, then rename it to ``path``. Make missing directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)
