"""The records of a run, read from ``steps.jsonl``, for summaries, replays, plots, recipes and token views."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Self, TypeVar

from agents.episode_log import read_records
from agents.recorded_prompts import RecordedPrompt, rebuild_prompts
from agents.records import EpisodeRecord, PlannerCall, Record, StepRecord, TranscriptRecord
from benchmarks.runs.suites import Case
from planner import Entry

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class EpisodeRecords:
    """The records of one finished episode.

    Attributes
    ----------
    end : EpisodeRecord
        How it ended.
    calls : tuple of PlannerCall
        Its replans in order.
    steps : tuple of StepRecord
        The lines of its plans that were carried out, in order.
    """

    end: EpisodeRecord
    calls: tuple[PlannerCall, ...]
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True)
class BackendRecords:
    """The records of one backend's finished episodes in a run.

    Attributes
    ----------
    episodes : dict of Case to EpisodeRecord
        The episodes, in the order in which they ended.
    calls : list of PlannerCall
        The replans of all episodes, in the order of the file.
    transcripts : dict of Case to tuple of Entry
        The whole history of each episode, oldest entry first.
    steps : list of StepRecord
        The lines of plans that were carried out in all episodes, in the order of the file.
    """

    episodes: dict[Case, EpisodeRecord] = field(default_factory=dict)
    calls: list[PlannerCall] = field(default_factory=list)
    transcripts: dict[Case, tuple[Entry, ...]] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)

    @cached_property
    def prompts(self) -> list[RecordedPrompt]:
        """The prompts of all replans, episode by episode. They are rebuilt from the transcripts on first use."""
        calls = _by_case(self.calls)
        return [
            prompt
            for case, episode in self.episodes.items()
            for prompt in rebuild_prompts(episode, self.transcripts.get(case, ()), calls[case])
        ]

    def of_cases(self, cases: Iterable[Case]) -> "BackendRecords":
        """Return the records of these episodes only, in this order.

        Workers finish episodes in any order, and intervals are drawn from values in order: the order of the file must not matter.
        """
        played = [case for case in dict.fromkeys(cases) if case in self.episodes]
        calls, steps = _by_case(self.calls), _by_case(self.steps)
        return BackendRecords(
            {case: self.episodes[case] for case in played},
            [call for case in played for call in calls[case]],
            {case: self.transcripts[case] for case in played if case in self.transcripts},
            [step for case in played for step in steps[case]],
        )

    def by_episode(self) -> list[EpisodeRecords]:
        """Return the replans and lines of each episode, in the order of ``episodes``."""
        calls, steps = _by_case(self.calls), _by_case(self.steps)
        return [EpisodeRecords(end, tuple(calls[case]), tuple(steps[case])) for case, end in self.episodes.items()]


@dataclass(frozen=True)
class RunRecords:
    """The records of all finished episodes of a run.

    Attributes
    ----------
    path : Path
        The ``steps.jsonl`` from which they were read.
    backends : mapping of str to BackendRecords
        The records by the backend's spec string, in the order of the file.
    """

    path: Path
    backends: Mapping[str, BackendRecords]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ``steps.jsonl``.

        Parameters
        ----------
        path : Path
            The file. A file that does not exist has no records.

        Returns
        -------
        RunRecords
            Its records.

        Raises
        ------
        ValueError
            For a malformed line; the message names it.
        """
        backends: dict[str, BackendRecords] = defaultdict(BackendRecords)
        transcript: list[TranscriptRecord] = []
        for record in read_records(path):  # episode by episode, its EpisodeRecord last
            if isinstance(record, TranscriptRecord):
                transcript.append(record)
            elif isinstance(record, PlannerCall):
                backends[record.backend].calls.append(record)
            elif isinstance(record, StepRecord):
                backends[record.backend].steps.append(record)
            elif isinstance(record, EpisodeRecord):
                case, played = Case(record.env_id, record.seed), backends[record.backend]
                played.episodes[case] = record
                played.transcripts[case] = _entries(transcript)
                transcript = []
        return cls(path, dict(backends))

    def select(self, backends: Sequence[str], cases: Sequence[Case]) -> dict[str, BackendRecords]:
        """Return the records of some backends in some episodes.

        Parameters
        ----------
        backends : sequence of str
            Spec strings. A backend without a finished episode among ``cases`` is left out.
        cases : sequence of Case
            The episodes.

        Returns
        -------
        dict of str to BackendRecords
            Records by spec string, in the order of ``backends``, their episodes in the order of ``cases``.
        """
        chosen = {backend: self.backends[backend].of_cases(cases) for backend in backends if backend in self.backends}
        return {backend: records for backend, records in chosen.items() if records.episodes}

    @property
    def seeds(self) -> list[int]:
        """The seeds of all episodes, in the order of the file, backend by backend."""
        return [case.seed for played in self.backends.values() for case in played.episodes]

    def prompts(self, backend: str) -> list[RecordedPrompt]:
        """Rebuild all prompts of one backend.

        Parameters
        ----------
        backend : str
            Spec string of the backend.

        Returns
        -------
        list of RecordedPrompt
            One per replan, in the order of the file.

        Raises
        ------
        ValueError
            Where the run has no replan of ``backend``.
        """
        prompts = self.backends[backend].prompts if backend in self.backends else []
        if not prompts:
            raise ValueError(
                f"{self.path} holds no planner call of backend {backend!r}: name a backend that the run has episodes of"
            )
        return prompts


def _by_case(records: Iterable[R]) -> dict[Case, list[R]]:
    found: dict[Case, list[R]] = defaultdict(list)
    for record in records:
        found[Case(record.env_id, record.seed)].append(record)
    return found


def _entries(transcript: Sequence[TranscriptRecord]) -> tuple[Entry, ...]:
    return tuple(Entry(record.entry, record.text) for record in sorted(transcript, key=attrgetter("index")))
