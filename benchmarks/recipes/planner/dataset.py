"""From samples to training sequences: chat messages, the tokenizer, shards of tokens. What is on disk is not made again."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from minigrid.core.constants import COLOR_NAMES
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from agents.demonstrations import Sample
from benchmarks.recipes.planner.collect import read_samples
from benchmarks.recipes.planner.lessons import lesson
from envs.observation.names import ROOM_NAMES
from erecap.training.data import Sequence as TokenSequence
from erecap.training.data import ShardedSequences, encode_episode, write_shard
from erecap.training.tokenizer import build_tokenizer
from planner import History, build_prompt, system_text

TOKENIZER_CHUNKS = 3


def messages(sample: Sample, in_place: bool = False) -> list[dict[str, Any]]:
    """The sample as chat messages with the flags that ``encode_episode`` takes; exactly the prompts of the episode, in a row.

    ``in_place``: plans that are not the expert's carry the expert's as their label.
    """
    found: list[dict[str, Any]] = []
    plans = iter(zip(sample.imitate, sample.labels, strict=True))
    segments = build_prompt(History(sample.entries)).segments
    for kind, segment in zip(("system", *(entry.kind for entry in sample.entries)), segments, strict=True):
        message: dict[str, Any] = {"role": segment.role, "content": segment.text, "protected": kind in ("system", "task")}
        if kind == "plan":
            message["train"], label = next(plans)
            if in_place and label is not None and not message["train"]:
                message["label"] = label
        found.append(message | ({"same_turn": True} if kind == "feedback" else {}))
    return found


def make_tokenizer(chunks: Sequence[Path], out: Path, vocabulary: int) -> PreTrainedTokenizerBase:
    """The tokenizer in ``out``; built from a few chunks of every source where it is not there yet."""
    if not (out / "tokenizer.json").exists():
        build_tokenizer(_texts(chunks), vocab_size=vocabulary, phrases=phrases()).save_pretrained(out)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(out)
    return tokenizer


def phrases() -> list[str]:
    """Names of things, and "in <room>": single tokens of the planner."""
    kinds = ("ball", "key", "box", "door")
    return [f" {color} {kind}" for color in COLOR_NAMES for kind in kinds] + [f" in {room}" for room in ROOM_NAMES]


def _texts(chunks: Sequence[Path]) -> Iterator[str]:
    yield system_text()
    by_source: dict[str, list[Path]] = {}
    for path in chunks:
        by_source.setdefault(path.name.rpartition("-")[0], []).append(path)
    for paths in by_source.values():
        for path in paths[:TOKENIZER_CHUNKS]:
            for sample in read_samples(path):
                yield from (entry.text for entry in sample.entries)


def encode(
    chunks: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    max_tokens: int,
    on_chunk: Callable[[Path], None],
    in_place: bool = False,
) -> ShardedSequences:
    """One shard per chunk. Episodes longer than ``max_tokens`` are cut there; a correction that would lose its plan is left out.

    ``in_place``: whole episodes teach the expert's plan where the played one parts from it.
    """
    shards: list[Path] = []
    for path in chunks:
        shard = out / f"{path.stem}.safetensors"
        if not shard.exists():
            sequences = [cut for sample in read_samples(path) if (cut := _encode(tokenizer, sample, max_tokens, in_place))]
            write_shard(shard, sequences)
        shards.append(shard)
        on_chunk(path)
    return ShardedSequences(shards)


def encode_lessons(count: int, seed: int, tokenizer: PreTrainedTokenizerBase, out: Path) -> Path:
    """One shard of ``count`` lessons."""
    shard = out / f"{count}-{seed}.safetensors"
    if not shard.exists():
        rng = np.random.default_rng((seed, count))
        write_shard(shard, [encode_episode(tokenizer, lesson(rng)) for _ in range(count)])
    return shard


def _encode(tokenizer: PreTrainedTokenizerBase, sample: Sample, max_tokens: int, in_place: bool) -> TokenSequence | None:
    sequence = encode_episode(tokenizer, messages(sample, in_place))
    if len(sequence) <= max_tokens:
        return sequence
    if not any(label is not None for label in sample.labels[:-1]):
        return None
    return sequence.cut(max_tokens)
