"""Result files: one JSON object per measurement. The file is rewritten after every point, so a killed run keeps its points."""

import json
import math
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from erecap.models.files import FileError, fill_atomically, read_json_object, reason
from erecap.profiling.progress import Progress

RESULT_VERSION = 1

Row = dict[str, Any]


class ResultFile:
    """A result file that grows.

    It holds ``version``, facts such as ``command`` and ``machine``, ``complete`` (whether the measurement came to its end), and
    ``points``, one per measured case.

    Parameters
    ----------
    path
        Path of the file; ``None`` writes no file.
    progress
        Hears of every point.
    facts
        Facts that hold for all points.
    """

    def __init__(self, path: Path | None, progress: Progress | None = None, **facts: Any) -> None:
        self.path, self.progress, self.points = path, progress, list[Row]()
        self.content: Row = {"version": RESULT_VERSION, **facts, "complete": False, "points": self.points}

    def expect(self, points: int) -> None:
        """Say how many points there will be."""
        if self.progress is not None:
            self.progress.expect(points)

    def begin(self, work: str) -> None:
        """Say what is measured now."""
        if self.progress is not None:
            self.progress.begin(work)

    def add(self, point: Row) -> None:
        """Append a point and write the file."""
        self.points.append(point)
        self.save()
        if self.progress is not None:
            self.progress.add(point)

    def note(self, **facts: Any) -> None:
        """Add facts that hold for all points, and write the file."""
        self.content.update(facts)
        self.save()

    def finish(self) -> None:
        """Mark the measurement as complete, and write the file."""
        self.note(complete=True)

    def save(self) -> None:
        """Write the file atomically.

        Raises
        ------
        ValueError
            Where it cannot be written.
        """
        if self.path is None:
            return
        text = json.dumps(_without_nan(self.content), indent=1, allow_nan=False) + "\n"
        fill_atomically(self.path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _without_nan(value: Any) -> Any:
    """Replace numbers that do not exist (NaN, infinity) by ``None``: JSON has no others."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def default_path(kind: str, name: str) -> Path:
    """Choose a path below ``runs/profile`` that does not exist yet, from the kind of measurement, the model's name and the time."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", Path(name).name).strip("-")
    stem = f"{kind}-{words}-{datetime.now():%Y%m%d-%H%M%S}"
    free = (Path("runs/profile") / f"{stem}{'' if number == 1 else f'-{number}'}.json" for number in count(1))
    return next(path for path in free if not path.exists())


def check_writable(path: Path) -> None:
    """Raise ``ValueError`` unless a result file can be written to ``path``. Makes missing directories."""
    if path.is_dir():
        raise ValueError(f"--out {str(path)!r} is a directory: give the path of a file, such as {str(path / 'prefill.json')!r}")
    probe = path.with_name(path.name + ".probe")
    try:
        fill_atomically(probe, lambda partial: partial.write_text("", encoding="utf-8"))
    except FileError as error:
        raise FileError(
            f"--out {str(path)!r} cannot be written ({reason(error.__cause__ or error)}): give a path that can"
        ) from error
    probe.unlink()


def read_result(path: Path) -> Row:
    """Read a result file.

    Raises
    ------
    ValueError
        For a file that cannot be read, is not a result file, or has another version.
    """
    content = read_json_object(path, "give a file that `erecap profile` wrote")
    version = content.get("version")
    if version != RESULT_VERSION:
        raise ValueError(f"{path} has version {version}, this erecap reads {RESULT_VERSION}: measure again")
    missing = [key for key in ("kind", "machine", "points") if key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: give a file that `erecap profile` wrote")
    return content


def measured_points(points: Sequence[Row]) -> list[Row]:
    """Return the points that have figures, without those that were left out or failed."""
    return [point for point in points if point.get("status") == "ok"]
