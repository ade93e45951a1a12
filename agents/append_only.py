"""A file that one process appends to: locked, written whole or not at all, and missed when it is deleted."""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

TORN = ".torn"
"""Suffix of the file beside a record that gets what a kill left of its last entry."""


class AppendOnlyFile:
    """A file opened for appending; a context manager.

    Parameters
    ----------
    path : Path
        The file. It is created, with its directory, where it does not exist.

    Raises
    ------
    ValueError
        On entering, where another process has the file open in this way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise ValueError(f"{self.path} is being written by another run: wait for it, or write to another directory") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def append(self, data: bytes) -> None:
        """Write all of ``data`` and wait until the disk has it. Where that fails, or Ctrl-C comes before, the file is as before.

        Raises
        ------
        ValueError
            Where the file cannot be written (a full disk), or has been deleted, moved or replaced.
        """
        self.check()
        end = os.fstat(self._file).st_size
        try:
            _write_all(self._file, data)
            os.fsync(self._file)
        except OSError as error:
            self._take_back(end)
            raise ValueError(
                f"{self.path} cannot be written: {error.strerror}. All that was finished before is kept: make room, and the same "
                "command continues the run"
            ) from error
        except BaseException:
            if os.fstat(self._file).st_size < end + len(data):
                self._take_back(end)
            raise

    def _take_back(self, end: int) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, end)

    def check(self) -> None:
        """Raise ``ValueError`` where the file is no longer at its path: what is written now would be lost."""
        if not is_at(self._file, self.path):
            raise ValueError(
                f"{self.path} was deleted, moved or replaced while it was being written: the run stops, since nothing more could "
                "be kept. Start the command again"
            )

    def move_tail_aside(self, end: int) -> Path:
        """Move everything from byte ``end`` on to the end of a file beside this one, and return that file's path."""
        aside = self.path.with_name(self.path.name + TORN)
        with self.path.open("rb") as file:
            file.seek(end)
            tail = file.read()
        with AppendOnlyFile(aside) as torn:
            torn.append(tail)
        os.ftruncate(self._file, end)
        os.fsync(self._file)
        return aside


def is_at(file: int, path: Path) -> bool:
    """Tell whether the open file is what ``path`` names."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _write_all(file: int, data: bytes) -> None:
    """Write all of ``data``. A full disk or a signal can end an ``os.write`` early: write the rest, or raise its error."""
    while data:
        data = data[os.write(file, data) :]
