"""Reading ``steps.jsonl``, and checking what it promises.

The records of an episode stand together, its ``EpisodeRecord`` last. What follows the last ``EpisodeRecord`` is an episode that a
kill cut short, if it begins as records do; readers skip it. Anything else that is not as promised is an error: a log with a line
too few would give other prompts and other figures without a word.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from agents.job import EpisodeKey
from agents.json_lines import Line, digest_of, read_lines
from agents.records import RECORD, AnyRecord, EpisodeRecord, PlannerCall, StepRecord, TranscriptRecord

# JSON escapes the quotes inside a string, so this is always the key and its value.
_EPISODE_MARK = re.compile(rb'"kind"\s*:\s*"episode"')
_START = b'{"backend":"'  # of every record


@dataclass(frozen=True)
class Log:
    """The content of a ``steps.jsonl``.

    Attributes
    ----------
    episodes : list of list of records
        The records of each finished episode, the ``EpisodeRecord`` last.
    end : int
        Number of leading bytes that hold them.
    torn : bool
        Whether an episode that was cut short follows.
    closed : bool
        Whether the last finished episode ends with a line break.
    """

    episodes: list[list[AnyRecord]] = field(default_factory=list)
    end: int = 0
    torn: bool = False
    closed: bool = True

    @property
    def ends(self) -> dict[EpisodeKey, EpisodeRecord]:
        """The last record of each episode, by key."""
        last = (records[-1] for records in self.episodes)
        return {key_of(end): end for end in last if isinstance(end, EpisodeRecord)}


def read_log(path: Path) -> Log:
    """Read and check a ``steps.jsonl``.

    Parameters
    ----------
    path : Path
        The file. A file that does not exist has no episodes.

    Returns
    -------
    Log
        Its finished episodes.

    Raises
    ------
    ValueError
        For what cannot be read, for gaps, doubles and episodes that are mixed. The message names the lines, and what is safe to do.
    """
    lines = read_lines(path)
    episodes: list[list[AnyRecord]] = []
    seen: dict[EpisodeKey, int] = {}
    end, closed, group = 0, True, _Group()
    for line in lines:
        try:
            record = group.add(line)
            if isinstance(record, EpisodeRecord):
                group.check_whole(record, seen)
        except _TornError:
            return Log(episodes, end, True, closed)
        except ValueError as error:
            raise ValueError(_advice(path, lines, group.first or line.number, line.number, str(error))) from error
        if isinstance(record, EpisodeRecord):
            episodes.append(group.records)
            end, closed, group = line.end, line.whole, _Group()
    return Log(episodes, end, bool(group.records), closed)


def key_of(record: AnyRecord) -> EpisodeKey:
    """Return what identifies the record's episode within a run."""
    return record.backend, record.env_id, record.seed


class _TornError(Exception):
    """The last line is the beginning of a record."""


@dataclass
class _Group:
    """The records of one episode, as they are read."""

    first: int = 0
    """Number of its first line; 0 before there is one."""
    records: list[AnyRecord] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)

    def add(self, line: Line) -> AnyRecord:
        """Read one more line."""
        try:
            record = RECORD.validate_json(line.text)
        except ValidationError as error:
            if line.is_torn(_START):
                raise _TornError from None
            raise ValueError(error.errors()[0]["msg"]) from error
        self.first = self.first or line.number
        if self.records and key_of(record) != key_of(self.records[0]):
            raise ValueError(f"a record of {_named(record)} follows records of {_named(self.records[0])}, which have no end")
        self.records.append(record)
        self.texts.append(line.text)
        return record

    def check_whole(self, end: EpisodeRecord, seen: dict[EpisodeKey, int]) -> None:
        """Check the episode that ``end`` ends; ``seen`` holds the first lines of those before it."""
        key = key_of(end)
        if key in seen:
            raise ValueError(f"{_named(end)} is there twice, first from line {seen[key]} on")
        seen[key] = self.first
        entries = [record.index for record in self.records if isinstance(record, TranscriptRecord)]
        replans = [record.replan for record in self.records if isinstance(record, PlannerCall)]
        steps = sum(isinstance(record, StepRecord) for record in self.records)
        _check_numbers("history entries", entries, len(entries))
        _check_numbers("replans", replans, max(len(replans), end.replans))
        if 0 < steps < end.skills:
            raise ValueError(f"{_named(end)} has {steps} steps instead of {end.skills}")
        if any(isinstance(record, PlannerCall) and record.history_entries > len(entries) for record in self.records):
            raise ValueError(f"{_named(end)} has {len(entries)} history entries, fewer than its prompts had")
        if end.digest is not None and end.digest != digest_of(self.texts):
            raise ValueError(
                f"{_named(end)} was changed after it was written (on purpose? then set the digest in this line to null)"
            )


def _check_numbers(what: str, numbers: Sequence[int], count: int) -> None:
    if list(numbers) != list(range(count)):
        raise ValueError(f"the {what} are numbered {_short(numbers)} instead of 0 to {count - 1}")


def _short(numbers: Sequence[int]) -> str:
    text = ", ".join(map(str, numbers))
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}"


def _named(record: AnyRecord) -> str:
    return f"the episode of {record.backend} in {record.env_id}, seed {record.seed}"


def _advice(path: Path, lines: Sequence[Line], first: int, bad: int, problem: str) -> str:
    """Say what is wrong, and which lines can be removed without changing any other episode."""
    ends = [line.number for line in lines if line.number >= bad and _EPISODE_MARK.search(line.text)]
    if not any(_EPISODE_MARK.search(line.text) for line in lines):
        return f"{path}, line {bad}: {problem}. The file holds no episode of a run: move it away, or choose another directory"
    last = ends[0] if ends else lines[-1].number
    return (
        f"{path}, line {bad}: {problem}. Nothing was changed. Choose another directory; or keep a copy of the file and remove "
        f"all of its lines {first} to {last}, not fewer: the same command then plays what they held again"
    )


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
        As ``read_log``.
    """
    for records in read_log(path).episodes:
        yield from records


def read_episodes(path: Path) -> dict[EpisodeKey, EpisodeRecord]:
    """Read the ``EpisodeRecord`` of each finished episode.

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
        As ``read_log``.
    """
    return read_log(path).ends
