"""Result files: one JSON object per measurement, written whole after every point, so that a kill keeps what was measured."""

import json
from pathlib import Path
from typing import Any

from erecap.models.files import fill_atomically

RESULT_VERSION = 1

Row = dict[str, Any]


class ResultFile:
    """A result file in the making: ``version``, ``command``, ``machine`` and further facts, and ``points``, one per measurement.

    Parameters
    ----------
    path
        Where the file goes; ``None`` measures without writing one.
    facts
        What holds for all points.
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
        """Write the file whole or not at all."""
        if self.path is not None:
            text = json.dumps(self.content, indent=1, allow_nan=True) + "\n"
            fill_atomically(self.path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_result(path: Path) -> Row:
    """Read a result file.

    Raises
    ------
    ValueError
        For a file that is no result file, or of another version.
    """
    try:
        content: Row = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("version")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}): give a file that `python -m erecap.profiling` wrote") from error
    if version != RESULT_VERSION:
        raise ValueError(f"{path} has version {version}, this erecap reads {RESULT_VERSION}: measure again")
    return content
