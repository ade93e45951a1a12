"""Files of one JSON object per line: their lines, whether the last one was cut short, and digests of what lines say."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One line that is not blank."""

    number: int
    """Its number in the file, from 1."""
    begin: int
    """Offset of its first byte."""
    end: int
    """Offset behind it in bytes, its line break included."""
    text: bytes
    """The line without its line break."""
    whole: bool
    """Whether it ends with a line break."""

    def is_torn(self, start: bytes) -> bool:
        """Tell whether the line, which cannot be read, is the first part of one that begins with ``start``.

        White space does not count. A file system may leave zeros where a crash kept it from writing.
        """
        text = re.sub(rb"\s", b"", self.text.rstrip(b"\0")[: 2 * len(start)])
        return not self.whole and text != b"" and (text.startswith(start) or start.startswith(text))


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a file that are not blank. A file that does not exist has none."""
    data = path.read_bytes() if path.exists() else b""
    found, begin, number = [], 0, 0
    while begin < len(data):
        newline = data.find(b"\n", begin)
        end = len(data) if newline < 0 else newline + 1
        number += 1
        text = data[begin:end].rstrip(b"\r\n")
        if text.strip():
            found.append(Line(number, begin, end, text, newline >= 0))
        begin = end
    return found


def digest_of(lines: Iterable[bytes | str]) -> str:
    """Compute a digest of the values of JSON objects, whatever their spelling.

    Parameters
    ----------
    lines : iterable of bytes or str
        The objects as JSON. A field ``digest`` is left out, so that they can hold it.

    Returns
    -------
    str
        The first 32 hex digits of a SHA-256.
    """
    made = hashlib.sha256()
    for line in lines:
        fields = json.loads(line, parse_int=float)  # tools write 1.0 as 1
        fields.pop("digest", None)
        made.update(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return made.hexdigest()[:32]
