"""Recorded prompts, rebuilt exactly: a replan's prompt is the first ``history_entries`` entries of its episode's transcript."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.episode_log import read_records
from agents.records import EpisodeRecord, PlannerCall, TranscriptRecord
from planner import History, Prompt, build_prompt


@dataclass(frozen=True)
class RecordedPrompt:
    """The prompt of one replan. ``prompt_tokens`` is its length as the recording backend counted it, ``answer`` what it wrote."""

    env_id: str
    seed: int
    replan: int
    prompt_tokens: int
    prompt: Prompt
    answer: str = ""

    @property
    def key(self) -> tuple[str, int, int]:
        """Which prompt of a run this is."""
        return self.env_id, self.seed, self.replan


def read_prompts(steps_jsonl: Path, backend: str) -> list[RecordedPrompt]:
    """All prompts that ``backend`` (a spec string) was given in the finished episodes of a run, in the order of the file.

    Raises ``ValueError`` for a malformed file, and where ``backend`` has no planner call in it.
    """
    transcript: list[TranscriptRecord] = []
    calls: list[PlannerCall] = []
    prompts: list[RecordedPrompt] = []
    for record in read_records(steps_jsonl):
        if record.backend != backend:
            continue
        if isinstance(record, TranscriptRecord):
            transcript.append(record)
        elif isinstance(record, PlannerCall):
            calls.append(record)
        elif isinstance(record, EpisodeRecord):
            prompts.extend(_prompts_of(transcript, calls, record.system))
            transcript, calls = [], []
    if not prompts:
        raise ValueError(f"{steps_jsonl} holds no planner call of backend {backend!r}: name a backend that the run has episodes of")
    return prompts


def _prompts_of(transcript: list[TranscriptRecord], calls: list[PlannerCall], system: str | None) -> Iterator[RecordedPrompt]:
    history = History()
    for record in sorted(transcript, key=lambda record: record.index):
        history = history.append(record.entry, record.text)
    for call in calls:
        prompt = build_prompt(History(history.entries[: call.history_entries]), system)
        yield RecordedPrompt(call.env_id, call.seed, call.replan, call.generation.prompt_tokens, prompt, call.generation.text)
