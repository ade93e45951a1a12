"""The prompts and answers on which schedules are measured: recorded replans, or texts with answers.

Nothing is trained here, so recordings of held-out seeds are accepted; the result says which were used.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.recorded_prompts import RecordedPrompt
from benchmarks.backends.registry import choose_reference
from benchmarks.recipes.sequences import SequenceChoice, choose_sequences
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.records import RunRecords
from envs import HELD_OUT
from erecap.backend import encode_prompt
from erecap.first_stage.answers import AnswerCase
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import ChatTokenizer, Message, TokenizedPrompt
from erecap.training.sequences import ALWAYS_KEPT, PLAN_WEIGHT, TokenSequence
from erecap.training.texts import TEXT_SUFFIXES

_ALL = 1_000_000_000


@dataclass(frozen=True)
class CaseChoice:
    """A choice of prompts with answers.

    Attributes
    ----------
    data
        Run directories, ``.jsonl`` or ``.txt`` files.
    prompts
        Number of prompts, chosen at random.
    min_length, max_length
        Shortest and longest prompt in tokens; others are left out.
    seed
        Seed of the choice.

    Raises
    ------
    ValueError
        For no data, no prompts, and lengths that allow none.
    """

    data: tuple[Path, ...]
    prompts: int = 32
    min_length: int = 1
    max_length: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("no data to measure on: give --data, such as a run directory made with `erecap run`")
        if self.prompts < 1 or not 1 <= self.min_length <= self.max_length:
            raise ValueError(
                f"num_prompts={self.prompts}, min_length={self.min_length}, max_length={self.max_length}: give at least 1 prompt, "
                "and a shortest length from 1 up to the longest"
            )


@dataclass(frozen=True)
class ChosenCases:
    """The chosen prompts with their answers.

    Attributes
    ----------
    cases
        The cases.
    sources
        One phrase per directory or file: what was read.
    """

    cases: tuple[AnswerCase, ...]
    sources: tuple[str, ...]

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all token ids and masks."""
        checksum = hashlib.sha256()
        for case in self.cases:
            for row in (case.prompt.input_ids, case.prompt.protected, np.array(case.answer, np.int64)):
                checksum.update(np.ascontiguousarray(row).tobytes() + b"|")
        return checksum.hexdigest()[:16]


def choose_cases(choice: CaseChoice, loaded: LoadedModel, max_new_tokens: int) -> ChosenCases:
    """Read and tokenize the chosen prompts and answers.

    Of a run directory it takes the replans of the reference backend, with the answers that are whole plans.

    Parameters
    ----------
    choice
        What to read.
    loaded
        The model whose tokenizer is used, and whose positions must hold prompt and answer.
    max_new_tokens
        Tokens that a greedy answer may take.

    Raises
    ------
    ValueError
        For data of an unknown kind, and where no prompt fits.
    """
    chat = ChatTokenizer(loaded.tokenizer)
    positions = int(loaded.model.config.max_position_embeddings)
    longest = min(choice.max_length, positions - max_new_tokens)
    found: list[AnswerCase] = []
    sources = []
    for path in choice.data:
        cases, source = _read(path, chat, loaded, choice.max_length)
        fits = [case for case in cases if choice.min_length <= len(case.prompt) <= longest]
        found += [case for case in fits if len(case.prompt) + len(case.answer) <= positions]
        sources.append(source)
    if not found:
        raise ValueError(
            f"no prompt of {choice.min_length} to {longest} tokens with an answer in {', '.join(map(str, choice.data))} (the model "
            f"has {positions} positions): give other data, or change --min-length, --max-length or --max-new-tokens"
        )
    order = np.random.default_rng(choice.seed).permutation(len(found))[: choice.prompts]
    return ChosenCases(tuple(found[index] for index in sorted(order)), tuple(sources))


def _read(path: Path, chat: ChatTokenizer, loaded: LoadedModel, max_length: int) -> tuple[Sequence[AnswerCase], str]:
    if (path / STEPS_FILE).is_file():
        return _recorded(path, chat, loaded.eos_ids)
    if path.suffix in TEXT_SUFFIXES and path.is_file():
        sequences = choose_sequences(SequenceChoice((path,), _ALL, max_length), loaded.tokenizer)
        cases = [case for index in range(len(sequences)) for case in text_cases(sequences[index])]
        return cases, f"{path.name} ({len(cases)} answers)"
    raise ValueError(
        f"{path} holds no {STEPS_FILE} and is no file of texts ({' or '.join(TEXT_SUFFIXES)}): give a run directory, made by "
        "`erecap run`, or such a file"
    )


def _recorded(path: Path, chat: ChatTokenizer, eos_ids: frozenset[int]) -> tuple[list[AnswerCase], str]:
    records = RunRecords.read(path / STEPS_FILE)
    backend = choose_reference(sorted(records.backends))
    recorded, played = records.prompts(backend), records.backends[backend]
    whole = {(call.env_id, call.seed, call.replan) for call in played.calls if call.is_whole}
    cases = [recorded_case(chat, one, eos_ids) for one in recorded if (one.env_id, one.seed, one.replan) in whole]
    seeds = [case.seed for case in played.episodes]
    kind = "held-out" if min(seeds) >= HELD_OUT else "training" if max(seeds) < HELD_OUT else "held-out and training"
    return cases, f"{path.resolve().name} ({backend}, {len(seeds)} episodes of {kind} seeds, {len(cases)} plans)"


def recorded_case(chat: ChatTokenizer, recorded: RecordedPrompt, eos_ids: frozenset[int]) -> AnswerCase:
    """Tokenize a recorded prompt and its answer. The answer ends with the token that closes it in the chat template.

    Raises
    ------
    ValueError
        For a template that writes an answer otherwise than after the header that a prompt ends with.
    """
    prompt = encode_prompt(chat, recorded.prompt)
    messages: list[Message] = [(part.role, part.text, part.protected) for part in recorded.prompt.segments]
    whole = chat.encode([*messages, ("assistant", recorded.answer, False)])
    if not np.array_equal(whole.input_ids[: len(prompt)], prompt.input_ids):
        raise ValueError(
            "the tokenizer's chat template writes an answer otherwise than after the header that its prompts end with, so recorded "
            "answers have no loss: set tokenizer.chat_template to ChatML like Qwen2's, or give --data a file of texts"
        )
    answer = whole.input_ids[len(prompt) : whole.segment_ends[-1]].tolist()
    end = next((index + 1 for index, token in enumerate(answer) if token in eos_ids), len(answer))
    return AnswerCase(prompt, tuple(answer[:end]))


def text_cases(sequence: TokenSequence) -> Iterator[AnswerCase]:
    """Make a case of every answer of a sequence: all tokens before it, of which those of its own turn are protected."""
    answers = np.concatenate(([False], sequence.weights >= PLAN_WEIGHT, [False]))
    edges = np.flatnonzero(answers[1:] != answers[:-1])
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if start:
            turns = sequence.turns[:start]
            protected = (turns == ALWAYS_KEPT) | (turns == sequence.turns[start])
            ids = sequence.input_ids[:start].astype(np.int64)
            yield AnswerCase(TokenizedPrompt(ids, protected, (start,)), tuple(sequence.input_ids[start:end].tolist()))
