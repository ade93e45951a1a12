"""``steps.jsonl``: the records of finished episodes, one JSON line each.

When an episode is over, its records are appended in one write, with the ``EpisodeRecord`` last. Lines after the last
``EpisodeRecord`` are therefore an episode that was cut short by a kill. Readers skip them, and the next writer moves them to
``steps.jsonl.torn``. A file that is anything else than a log is refused and left as it is (``agents.episode_reader``).
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from agents.append_only import AppendOnlyFile
from agents.episode_reader import key_of, read_episodes, read_log, read_records
from agents.job import EpisodeKey
from agents.json_lines import digest_of
from agents.records import RECORD, EpisodeRecord

__all__ = ["EpisodeLog", "read_episodes", "read_records"]

log = structlog.get_logger(__name__)


class EpisodeLog:
    """A ``steps.jsonl`` opened for appending; a context manager.

    Parameters
    ----------
    path : Path
        The file. It is created, with its directory, where it does not exist.

    Attributes
    ----------
    episodes : dict
        The finished episodes, by key. ``append`` adds to it.

    Raises
    ------
    ValueError
        On entering, where another process has the file open for writing, or where it is no log of episodes.
    """

    episodes: dict[EpisodeKey, EpisodeRecord]

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self._file = AppendOnlyFile(self.path)
        self._file.__enter__()
        try:
            self.episodes = self._open()
        except BaseException:
            self._file.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.__exit__(kind, error, trace)

    def append(self, lines: Sequence[str]) -> EpisodeRecord:
        """Write the records of one episode.

        Parameters
        ----------
        lines : sequence of str
            The records as JSON, without line breaks; the last one is the episode's ``EpisodeRecord``.

        Returns
        -------
        EpisodeRecord
            The last record, with the digest of all.

        Raises
        ------
        ValueError
            Where the file cannot be written or is gone. It then ends with the episode before.
        """
        episode = RECORD.validate_json(lines[-1])
        assert isinstance(episode, EpisodeRecord), "an episode's records end with its EpisodeRecord"
        episode = episode.model_copy(update={"digest": digest_of(lines)})
        self._file.append("".join(f"{line}\n" for line in (*lines[:-1], episode.model_dump_json())).encode())
        self.episodes[key_of(episode)] = episode
        return episode

    def _open(self) -> dict[EpisodeKey, EpisodeRecord]:
        """Read the episodes, and make the file end with the last of them."""
        found = read_log(self.path)
        if found.torn:
            aside = self._file.move_tail_aside(found.end)
            log.warning("moved an episode that was cut short aside", path=str(self.path), to=str(aside))
        if not found.closed:
            self._file.append(b"\n")
        return found.ends
