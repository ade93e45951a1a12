"""The sequences for saliency and for the pruner's training.

`erecap saliency` and `erecap train-pruner` choose them with the same function and options, so a saliency file fits the training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from transformers import PreTrainedTokenizerBase

from agents.demonstrations import Sample
from agents.records import PlannerCall
from benchmarks.backends.registry import choose_reference
from benchmarks.recipes.planner.dataset import chat_messages
from benchmarks.recipes.seeds import refuse_held_out
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.records import BackendRecords, RunRecords
from benchmarks.runs.suites import Case
from erecap.training.encoding import encode_episode
from erecap.training.sequences import SequenceList, ShardedSequences, TokenSequence, cut_after_plan
from erecap.training.texts import TEXT_SUFFIXES, BadLine, OnBad, chat_of, encode_chat, read_texts, refuse

log = structlog.get_logger()


@dataclass(frozen=True)
class SequenceChoice:
    """A choice of training sequences.

    Attributes
    ----------
    data
        Run directories, shard directories of ``train-planner``, ``.jsonl`` or ``.txt`` files, names of data sets on the hub.
    samples
        Number of sequences, chosen at random.
    max_length
        Longest sequence in tokens. A longer one is cut after the last plan that ends within this length.
    seed
        Seed of the choice.
    skip_bad
        Whether to leave out lines that cannot be read as samples; otherwise they raise an error.

    Raises
    ------
    ValueError
        For no samples, and for a length below 2.
    """

    data: tuple[Path, ...]
    samples: int = 256
    max_length: int = 4608
    seed: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_length < 2:
            raise ValueError(f"num_samples={self.samples}, max_length={self.max_length}: give at least 1 sample and 2 tokens")


def choose_sequences(choice: SequenceChoice, tokenizer: PreTrainedTokenizerBase) -> SequenceList:
    """Read and encode the chosen sequences.

    Raises
    ------
    ValueError
        For data of an unknown kind, held-out episodes, bad lines (unless skipped), or if no plan fits into ``max_length``.
    """
    bad: list[BadLine] = []
    on_bad = bad.append if choice.skip_bad else refuse
    whole = (s for path in choice.data for s in _read(path, tokenizer, choice.max_length, on_bad))
    found = [cut for s in whole if (cut := cut_after_plan(s, choice.max_length)) is not None]
    if bad:
        log.warning("lines left out", count=len(bad), first=str(bad[0]))
    if not found:
        raise ValueError(
            f"no episode with a plan within {choice.max_length} tokens in {', '.join(map(str, choice.data))}: give data that is not"
            " empty, or raise --max-length"
        )
    order = np.random.default_rng(choice.seed).permutation(len(found))[: choice.samples]
    return SequenceList([found[i] for i in sorted(order)])


def _read(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, on_bad: OnBad) -> Iterator[TokenSequence]:
    if (path / STEPS_FILE).is_file():
        return (encode_episode(tokenizer, chat_messages(sample)) for sample in read_transcripts(path / STEPS_FILE))
    if shards := sorted(path.glob("*.safetensors")):
        sequences = ShardedSequences(shards)
        return (sequences[i] for i in range(len(sequences)))
    if path.suffix in TEXT_SUFFIXES and path.is_file():
        return read_texts(path, tokenizer, max_length, on_bad)
    if not path.exists() and len(path.parts) == 2:
        return read_hub(path.as_posix(), tokenizer, on_bad)
    raise ValueError(
        f"{path} holds neither {STEPS_FILE} nor shards: give a run directory, a shards directory of train-planner, or a file of "
        f"texts ({' or '.join(TEXT_SUFFIXES)})"
    )


def read_hub(name: str, tokenizer: PreTrainedTokenizerBase, on_bad: OnBad = refuse) -> Iterator[TokenSequence]:
    """Read the split ``train`` of a data set of instructions or chats on the hub. Needs the extra ``data``.

    Parameters
    ----------
    name
        ``owner/name``.
    tokenizer
        A fast tokenizer with a chat template.
    on_bad
        Called with each record that cannot be read as a sample; raises by default.

    Raises
    ------
    ValueError
        Where the package ``datasets`` is not installed, and for a bad record (by default).
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"{name!r} is no file, and to read it from the hub needs: pip install 'erecap[data]'") from error
    for number, record in enumerate(load_dataset(name, split="train"), 1):
        try:
            yield encode_chat(tokenizer, chat_of(record))
        except ValueError as error:
            on_bad(BadLine(name, number, str(error)))


def read_transcripts(steps: Path) -> Iterator[Sample]:
    """Read the episodes of a run's reference backend. Plans that could not be parsed or were cut are marked as not to imitate.

    Raises
    ------
    ValueError
        For held-out episodes.
    """
    records = RunRecords.read(steps)
    refuse_held_out(steps, records.seeds)
    reference = choose_reference(sorted(records.backends))
    played = records.backends.get(reference, BackendRecords())
    bad = {_place(call) for call in played.calls if call.parse_error is not None or call.generation.truncated}
    for case, episode in played.episodes.items():
        entries = played.transcripts[case]
        plans = [index for index, entry in enumerate(entries) if entry.kind == "plan"]
        if plans:
            labels = tuple(None if (case, index) in bad else entries[index].text for index in plans)
            yield Sample(entries[: plans[-1] + 1], labels, episode.system)


def _place(call: PlannerCall) -> tuple[Case, int]:
    """Return the episode of a replan, and the index of its plan in the history: right after the entries of its prompt."""
    return Case(call.env_id, call.seed), call.history_entries


def check_split(held_out: float, batch_tokens: int | None) -> None:
    """Raise ``ValueError`` unless the share to validate on is in [0, 1), and batches of at least one token are asked for."""
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out} must be in [0, 1): give the share of episodes to validate on")
    if batch_tokens is not None and batch_tokens < 1:
        raise ValueError(f"batch_tokens={batch_tokens} must be at least 1: give the most tokens of a batch, such as 4096")


def split_at_random(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split the sequences at random: return the numbers of those to train on, and of those held out."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    held_out = min(count - 1, round(share * count))
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())
