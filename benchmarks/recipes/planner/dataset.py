"""Training sequences from samples: chat messages, tokenizer, shards of tokens. Files on disk are reused."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from minigrid.core.constants import COLOR_NAMES
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from agents.demonstrations import Sample
from agents.workers import spawn_pool
from benchmarks.recipes.planner.collect import read_demonstrations
from benchmarks.recipes.planner.lessons import MOST_GOALS, lesson
from benchmarks.recipes.planner.locked_lessons import locked_lesson, troubled_lesson
from benchmarks.recipes.planner.misplanned_lessons import misplanned_lesson
from envs.observation.names import ROOM_NAMES
from erecap.training.encoding import TrainingMessage, encode_episode
from erecap.training.sequences import ShardedSequences, TokenSequence, write_shard
from erecap.training.tokenizer import build_tokenizer
from planner import History, build_prompt, system_text

_PLACE: dict[str, dict[str, object]] = {
    "briefing": {"ends_turn": True},
    "outcome": {"same_turn": True},
    "feedback": {"same_turn": True},
}
"""Keys for the kinds of entries that are neither an observation nor a plan: to which turn they belong. A replan's prompt protects
its turn, the plan before it, system text and task."""
TOKENIZER_CHUNKS = 3
"""Number of chunks of each source that the tokenizer is trained on."""


def chat_messages(sample: Sample, in_place: bool = False) -> list[TrainingMessage]:
    """Write a sample as the chat messages of the episode's prompts, with the keys that ``encode_episode`` reads.

    Parameters
    ----------
    sample
        An episode, whole or up to a correction.
    in_place
        Whether plans that differ from the expert's get the expert's plan as their label, which becomes a branch of the sequence.
    """
    found: list[TrainingMessage] = []
    plans = iter(zip(sample.imitate, sample.labels, strict=True))
    segments = build_prompt(History(sample.entries), sample.system).segments
    for kind, segment in zip(("system", *(entry.kind for entry in sample.entries)), segments, strict=True):
        message: dict[str, object] = {"role": segment.role, "content": segment.text, "protected": kind in ("system", "task")}
        if kind == "plan":
            message["train"], label = next(plans)
            if in_place and label is not None and not message["train"]:
                message["label"] = label
        found.append(message | _PLACE.get(kind, {}))
    return found


def make_tokenizer(chunks: Sequence[Path], out: Path, vocabulary: int) -> PreTrainedTokenizerBase:
    """Load the tokenizer in ``out``. If it is missing, train it on a few chunks of every source."""
    if not (out / "tokenizer.json").exists():
        build_tokenizer(_texts(chunks), vocab_size=vocabulary, phrases=phrases()).save_pretrained(out)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(out)
    return tokenizer


def phrases() -> list[str]:
    """List the phrases that become single tokens: names of things, "in <room>", and a subgoal's number in front of its line."""
    kinds = ("ball", "key", "box", "door")
    things = [f" {color} {kind}" for color in COLOR_NAMES for kind in kinds]
    return things + [f" in {room}" for room in ROOM_NAMES] + [f"{number}. " for number in range(1, MOST_GOALS + 1)]


def _texts(chunks: Sequence[Path]) -> Iterator[str]:
    yield from (system_text("subgoal"), system_text("task"))
    by_source: dict[str, list[Path]] = {}
    for path in chunks:
        by_source.setdefault(path.name.rpartition("-")[0], []).append(path)
    for paths in by_source.values():
        for path in paths[:TOKENIZER_CHUNKS]:
            for sample in read_demonstrations(path):
                yield from (entry.text for entry in sample.entries)


@dataclass(frozen=True)
class Encoding:
    """How samples become shards.

    Attributes
    ----------
    tokenizer
        Directory of the planner's tokenizer.
    out
        Directory of the shards.
    max_tokens
        Longest sequence in tokens, without branches. Longer episodes are cut; a correction that would lose its plan is left out.
    in_place
        Whether whole episodes also teach the expert's plan, in a branch, beside each played plan that differs from it.
    """

    tokenizer: Path
    out: Path
    max_tokens: int
    in_place: bool = False

    def shard(self, chunk: Path) -> Path:
        """Return the file of the chunk's shard."""
        return self.out / f"{chunk.stem}.safetensors"


def encode(chunks: Sequence[Path], how: Encoding, workers: int, on_chunk: Callable[[Path], None]) -> ShardedSequences:
    """Encode each chunk as one shard, in worker processes. Shards on disk are reused.

    Parameters
    ----------
    chunks
        Files of samples.
    how
        Tokenizer, directory and lengths.
    workers
        Number of processes; 1 encodes in this one.
    on_chunk
        Called after each chunk, first for those on disk.
    """
    missing = [path for path in chunks if not how.shard(path).exists()]
    for path in chunks:
        if path not in missing:
            on_chunk(path)
    if workers == 1 or len(missing) < 2:
        for path in missing:
            on_chunk(encode_chunk(path, how))
    else:
        with spawn_pool(workers) as pool:
            for path in pool.map(encode_chunk, missing, repeat(how)):
                on_chunk(path)
    return ShardedSequences([how.shard(path) for path in chunks])


def encode_chunk(chunk: Path, how: Encoding) -> Path:
    """Encode one chunk and return its path."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(how.tokenizer)
    found = (_encode(tokenizer, sample, how.max_tokens, how.in_place) for sample in read_demonstrations(chunk))
    write_shard(how.shard(chunk), [sequence for sequence in found if sequence])
    return chunk


LESSONS = {"plain": lesson, "locked": locked_lesson, "troubled": troubled_lesson, "misplanned": misplanned_lesson}
"""Functions that write lessons, by their kind."""


def encode_lessons(count: int, seed: int, tokenizer: PreTrainedTokenizerBase, out: Path, kind: str = "plain") -> Path:
    """Write ``count`` lessons of a kind of ``LESSONS`` as one shard in ``out``; return its path."""
    shard = out / f"{kind}-{count}-{seed}.safetensors"
    if not shard.exists():
        rng = np.random.default_rng((seed, count))
        write_shard(shard, [encode_episode(tokenizer, LESSONS[kind](rng)) for _ in range(count)])
    return shard


def _encode(tokenizer: PreTrainedTokenizerBase, sample: Sample, max_tokens: int, in_place: bool) -> TokenSequence | None:
    sequence = encode_episode(tokenizer, chat_messages(sample, in_place))
    if sequence.episode_length <= max_tokens:
        return sequence
    if not any(label is not None for label in sample.labels[:-1]):
        return None
    return sequence.cut(max_tokens)
