"""``steps.jsonl``: the records of finished episodes, one JSON line each.

When an episode is over, its records are appended in one write, with the ``EpisodeRecord`` last. Lines after the last
``EpisodeRecord`` are therefore an episode that was cut short by a kill. Readers skip them, and the next writer removes them.
"""

import fcntl
import io
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from pydantic import ValidationError

from agents.job import EpisodeKey
from agents.records import RECORD, AnyRecord, EpisodeRecord

# JSON escapes the quotes inside a string, so these bytes are always the key and its value.
_EPISODE_MARK = b'"kind":"episode"'

log = structlog.get_logger(__name__)


class EpisodeLog:
    """A ``steps.jsonl`` opened for appending; a context manager.

    Parameters
    ----------
    path : Path
        The file. It is created, with its directory, where it does not exist.

    Raises
    ------
    ValueError
        On entering, where another process has the file open for writing.
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
        _drop_torn_tail(self.path, self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)

    @cached_property
    def episodes(self) -> dict[EpisodeKey, EpisodeRecord]:
        """The finished episodes of the file, by key. The file is read once; ``append`` adds to this dictionary."""
        return read_episodes(self.path)

    def append(self, lines: Sequence[str]) -> EpisodeRecord:
        """Write the records of one episode.

        Parameters
        ----------
        lines : sequence of str
            The records as JSON, without line breaks; the last one is the episode's ``EpisodeRecord``.

        Returns
        -------
        EpisodeRecord
            The last record.
        """
        episode = RECORD.validate_json(lines[-1])
        assert isinstance(episode, EpisodeRecord), "an episode's records end with its EpisodeRecord"
        finished = self.episodes  # read before the file grows
        _write_all(self._file, ("\n".join(lines) + "\n").encode())
        os.fsync(self._file)
        finished[_key(episode)] = episode
        return episode


def read_records(path: Path) -> Iterator[AnyRecord]:
    """Read the records of all finished episodes, in the order of the file.

    Parameters
    ----------
    path : Path
        A ``steps.jsonl``. A file that does not exist has no records.

    Yields
    ------
    TranscriptRecord, PlannerCall, StepRecord or EpisodeRecord
        One record per line; an episode that was cut short is left out.

    Raises
    ------
    ValueError
        For a malformed line; the message names it.
    """
    for number, line in _whole_lines(path):
        yield _parse(line, number, path)


def read_episodes(path: Path) -> dict[EpisodeKey, EpisodeRecord]:
    """Read the ``EpisodeRecord`` of each finished episode and skip all other lines.

    Parameters
    ----------
    path : Path
        A ``steps.jsonl``. A file that does not exist has no episodes.

    Returns
    -------
    dict
        Episodes by backend, environment and seed, in the order of the file.

    Raises
    ------
    ValueError
        For a malformed ``EpisodeRecord``; the message names its line.
    """
    marked = ((number, line) for number, line in _whole_lines(path) if _EPISODE_MARK in line)
    episodes = (_parse(line, number, path) for number, line in marked)
    return {_key(episode): episode for episode in episodes if isinstance(episode, EpisodeRecord)}


def _key(episode: EpisodeRecord) -> EpisodeKey:
    return episode.backend, episode.env_id, episode.seed


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of finished episodes, numbered from 1."""
    data = path.read_bytes() if path.exists() else b""
    return enumerate(io.BytesIO(data[: _end_of_last_episode(data)]), 1)


def _parse(line: bytes, number: int, path: Path) -> AnyRecord:
    try:
        return RECORD.validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ValueError(f"{path}, line {number}: {problem}; remove the line, or start again in another directory") from error


def _end_of_last_episode(data: bytes) -> int:
    """Count the leading bytes of ``data`` that hold finished episodes."""
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
        log.warning("removed an episode that was cut short", path=str(path), bytes=len(data) - end)
        os.truncate(file, end)


def _write_all(file: int, data: bytes) -> None:
    """Write all of ``data``. A full disk or a signal can end an ``os.write`` early: write the rest, or raise its error."""
    while data:
        data = data[os.write(file, data) :]
