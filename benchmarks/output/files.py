"""Atomic writing of files, and checksums of files."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path


def checksum(path: Path) -> str:
    """Return the first 16 hex digits of the file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file atomically: a reader sees the old content or the new content, never a part.

    Parameters
    ----------
    path : Path
        The file. Its directory is made if it is missing.
    content : bytes or str
        The new content; text is written as UTF-8.

    Raises
    ------
    OSError
        Where the file cannot be written, such as on a full disk; with its name. The old file is then left as it is.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes files that others cannot read
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
