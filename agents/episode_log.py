"""``steps.jsonl``: the records of finished episodes, one JSON line each.

The records of an episode are appended in one write when it is over, and its ``EpisodeRecord`` is the last of them. So whatever
stands after the last ``EpisodeRecord`` is what a kill left of an episode, and is dropped when the file is opened again.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from pydantic import ValidationError

from agents.job import EpisodeKey
from agents.records import RECORD, AnyRecord, EpisodeRecord

# Quotes inside a JSON string are escaped, so these bytes can only be the key and value themselves.
_EPISODE_MARK = b'"kind":"episode"'

log = structlog.get_logger(__name__)


class EpisodeLog:
    """A ``steps.jsonl`` opened for appending. Use it as a context manager; a second writer is refused with ``ValueError``."""

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
        _drop_torn_tail(self.path, self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    def append(self, lines: Sequence[str]) -> EpisodeRecord:
        """Write one episode's records; the last of ``lines`` must be its ``EpisodeRecord``, which is returned."""
        episode = RECORD.validate_json(lines[-1])
        assert isinstance(episode, EpisodeRecord), "an episode's records end with its EpisodeRecord"
        _write_all(self._file, ("\n".join(lines) + "\n").encode())
        os.fsync(self._file)
        return episode


def read_records(path: Path) -> Iterator[AnyRecord]:
    """The records of a ``steps.jsonl`` in order, without what a kill left. A malformed line is a ``ValueError`` that names it."""
    end = _end_of_last_episode(path.read_bytes()) if path.exists() else 0
    for number, line in _complete_lines(path, end):
        yield _parse(line, number, path)


def read_episodes(path: Path) -> dict[EpisodeKey, EpisodeRecord]:
    """The finished episodes of a ``steps.jsonl`` by backend, environment and seed; empty where there is no such file."""
    end = _end_of_last_episode(path.read_bytes()) if path.exists() else 0
    marked = ((number, line) for number, line in _complete_lines(path, end) if _EPISODE_MARK in line)
    episodes = (_parse(line, number, path) for number, line in marked)
    return {(e.backend, e.env_id, e.seed): e for e in episodes if isinstance(e, EpisodeRecord)}


def _complete_lines(path: Path, end: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1) of the first ``end`` bytes."""
    if not end:
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, line
            if file.tell() >= end:
                return


def _parse(line: bytes, number: int, path: Path) -> AnyRecord:
    try:
        return RECORD.validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ValueError(f"{path}, line {number}: {problem}; remove the line, or start again in another directory") from error


def _end_of_last_episode(data: bytes) -> int:
    """How many bytes of ``data`` hold whole episodes."""
    mark = len(data)
    while (mark := data.rfind(_EPISODE_MARK, 0, mark)) >= 0:
        newline = data.find(b"\n", mark)
        if newline >= 0:
            return newline + 1
    return 0


def _drop_torn_tail(path: Path, file: int) -> None:
    data = path.read_bytes()
    end = _end_of_last_episode(data)
    if end < len(data):
        log.warning("dropped what a kill left of an episode", path=str(path), bytes=len(data) - end)
        os.truncate(file, end)


def _write_all(file: int, data: bytes) -> None:
    """One ``write`` as a rule; a full disk or a signal may split it, and then the rest follows or the error is raised."""
    while data:
        data = data[os.write(file, data) :]
