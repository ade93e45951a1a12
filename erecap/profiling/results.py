"""Result files: one JSON object per measurement. The file is rewritten after every point, so a killed run keeps its points."""

import json
from pathlib import Path
from typing import Any

from erecap.models.files import fill_atomically

RESULT_VERSION = 1

Row = dict[str, Any]


class ResultFile:
    """A result file that grows: ``version``, ``command``, ``machine`` and other facts, and ``points``, one per measured case.

    Parameters
    ----------
    path
        Path of the file; ``None`` writes no file.
    facts
        Facts that hold for all points.
    """

    def __init__(self, path: Path | None, **facts: Any) -> None:
        self.path, self.points = path, list[Row]()
        self.content: Row = {"version": RESULT_VERSION, **facts, "points": self.points}

    def add(self, point: Row) -> None:
        """Append a point and write the file."""
        self.points.append(point)
        self.save()

    def note(self, **facts: Any) -> None:
        """Add facts that hold for all points, and write the file."""
        self.content.update(facts)
        self.save()

    def save(self) -> None:
        """Write the file atomically."""
        if self.path is not None:
            text = json.dumps(self.content, indent=1, allow_nan=True) + "\n"
            fill_atomically(self.path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_result(path: Path) -> Row:
    """Read a result file.

    Raises
    ------
    ValueError
        For a file that is not a result file, or has another version.
    """
    try:
        content: Row = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("version")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}): give a file that `python -m erecap.profiling` wrote") from error
    if version != RESULT_VERSION:
        raise ValueError(f"{path} has version {version}, this erecap reads {RESULT_VERSION}: measure again")
    return content
