"""Atomic writing of files."""

import os
from collections.abc import Callable
from pathlib import Path


def fill_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a neighbouring file, then rename it to ``path``. Missing directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)
