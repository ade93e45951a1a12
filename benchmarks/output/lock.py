"""The lock of an output: one process writes it at a time, from before the first file until after the last."""

import contextlib
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from agents.append_only import is_at

LOCK_FILE = ".lock"


class OutputLock:
    """The right to write into a directory; a context manager. The lock goes with the process, however it ends.

    Parameters
    ----------
    directory : Path
        The directory. It is made where it does not exist, and removed again where nothing was written into it.
    name : str
        Name of the lock's file in it, which is there while the lock is held.

    Raises
    ------
    ValueError
        On entering, where another process holds the lock.
    """

    def __init__(self, directory: Path, name: str = LOCK_FILE) -> None:
        self.directory = directory
        self._path = directory / name

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Make the lock of one file in a directory that others may write to."""
        return cls(path.parent, f".{path.name}{LOCK_FILE}")

    def __enter__(self) -> Self:
        self._made = not self.directory.exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._locked = self._lock()
        self._open_directory = os.open(self.directory, os.O_RDONLY)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if is_at(self._locked, self._path):
            self._path.unlink()
            if self._made:
                with contextlib.suppress(OSError):  # it is not empty
                    self.directory.rmdir()
        os.close(self._locked)
        os.close(self._open_directory)

    def check(self) -> None:
        """Raise ``ValueError`` where the directory has been deleted, moved or replaced."""
        if not is_at(self._open_directory, self.directory):
            raise ValueError(
                f"{self.directory} was deleted, moved or replaced while it was being written: the run stops, since nothing more "
                "could be kept. Start the command again"
            )

    def _lock(self) -> int:
        """Open the file and lock it, anew where the holder before has removed it in between."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "unknown"
                os.close(file)
                raise ValueError(
                    f"{self.directory} is being written by another run ({holder}): wait for it, or write to another directory"
                ) from error
            if is_at(file, self._path):
                with contextlib.suppress(OSError):  # a full disk: the lock holds without the note
                    os.ftruncate(file, 0)
                    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return file
            os.close(file)
