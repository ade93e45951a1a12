"""Training sequences and their files: one episode as token ids, with a target and a weight per token.

``weights[i]`` is the weight of predicting token ``i`` from the tokens before it; ``weights[0]`` is not used.
Tokens of plans to imitate have weight ``PLAN_WEIGHT``, those of other plans 0, and all others a weight between, so the weight also
marks the plans.

Behind the episode there may be branches: plans that should have been made instead of others. A branch sees the episode up to where
it forks off, and itself, and nothing of the episode sees it. So one sequence teaches the right plan at each replan, also where the
episode went on with a wrong one.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from erecap.models.files import FileError, fill_atomically, reading

PLAN_WEIGHT = 1.0
"""The weight of a token of a plan to imitate."""
OTHER_WEIGHT = 0.3
"""The weight of a token outside plans."""
ALWAYS_KEPT = -1
"""The turn of a token that may never be pruned."""
NO_REPLAN = -2
"""The turn given for a row of a batch that has no replan."""
SEQUENCES_FORMAT = "erecap-sequences-3"
"""Name and version of the format, in a shard's metadata."""

CHECKSUM = "checksum"
"""Key of a file's metadata: the checksum of its tensors."""

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenSequence:
    """One episode as tokens.

    Attributes
    ----------
    input_ids
        Token ids, int32 ``(n,)``.
    weights
        Weights of the targets, float32 ``(n,)``.
    turns
        Turn of each token, int32 ``(n,)``, or ``ALWAYS_KEPT``. A turn is an observation, the plan that answers it, and what came of
        the plan. What the agent is told before its first observation is a turn of its own.
    forks
        Int32 ``(n,)``; ``None`` without branches. 0 for tokens of the episode; for those of a branch, all behind the episode, the
        number of tokens of the episode that it sees. A branch begins with a copy of the episode's next token, at its position, and
        its tokens have the turn ``ALWAYS_KEPT``.

    Raises
    ------
    ValueError
        For arrays of different lengths, and for fewer than 2 tokens.
    """

    input_ids: Int32
    weights: Float32
    turns: Int32
    forks: Int32 | None = None

    def __post_init__(self) -> None:
        arrays = (self.input_ids, self.weights, self.turns, *(() if self.forks is None else (self.forks,)))
        shapes = {array.shape for array in arrays}
        if len(shapes) != 1 or self.input_ids.ndim != 1:
            raise ValueError(f"input_ids, weights, turns and forks have shapes {shapes}: give vectors of one length")
        if len(self.input_ids) < 2:
            raise ValueError(f"a sequence of {len(self.input_ids)} tokens predicts nothing: give at least 2 tokens")

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def episode_length(self) -> int:
        """Number of tokens of the episode, without branches."""
        return len(self) if self.forks is None else int((self.forks == 0).sum())

    def cut(self, length: int) -> "TokenSequence":
        """Return the first ``length`` tokens of the episode, and the branches that fork off within them."""
        if self.forks is None:
            return TokenSequence(self.input_ids[:length], self.weights[:length], self.turns[:length])
        forks = self.forks
        kept = np.where(forks == 0, np.arange(len(self)) < length, forks < length)
        left = forks[kept]
        return TokenSequence(self.input_ids[kept], self.weights[kept], self.turns[kept], left if left.any() else None)

    def branch(self, at: int, tokens: Sequence[int]) -> "TokenSequence":
        """Return the sequence with a branch: a plan to imitate instead of the one that begins at index ``at`` of the episode.

        Parameters
        ----------
        at
            Index of the first token that the branch replaces, at least 2.
        tokens
            Token ids of the branch.

        Raises
        ------
        ValueError
            For an index outside the episode.
        """
        if not 2 <= at < self.episode_length:
            raise ValueError(f"a branch at token {at} of an episode of {self.episode_length}: it must follow at least two tokens")
        ids = np.array([self.input_ids[at - 1], *tokens], np.int32)
        weights = np.full(len(ids), PLAN_WEIGHT, np.float32)
        weights[0] = 0.0
        forks = np.zeros(len(self), np.int32) if self.forks is None else self.forks
        return TokenSequence(
            np.concatenate([self.input_ids, ids]),
            np.concatenate([self.weights, weights]),
            np.concatenate([self.turns, np.full(len(ids), ALWAYS_KEPT, np.int32)]),
            np.concatenate([forks, np.full(len(ids), at - 1, np.int32)]),
        )


def cut_after_plan(sequence: TokenSequence, length: int) -> TokenSequence | None:
    """Cut a sequence of more than ``length`` tokens after the last plan that ends within them.

    Returns
    -------
    TokenSequence or None
        ``sequence`` itself where it is short enough; ``None`` where no plan ends within ``length`` tokens.
    """
    if len(sequence) <= length:
        return sequence
    plans = sequence.weights >= PLAN_WEIGHT
    ends = np.flatnonzero(plans[:-1] & ~plans[1:]) + 1
    fitting = ends[ends <= length]
    return sequence.cut(int(fitting[-1])) if len(fitting) else None


class SequenceSet(Protocol):
    """A random-access collection of sequences with known lengths."""

    @property
    def lengths(self) -> Int64:
        """Length of each sequence in tokens, int64 ``(sequences,)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> TokenSequence: ...


class SequenceList:
    """A ``SequenceSet`` in memory."""

    def __init__(self, sequences: Iterable[TokenSequence]) -> None:
        self._sequences = list(sequences)
        self.lengths: Int64 = np.array([len(s) for s in self._sequences], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> TokenSequence:
        return self._sequences[index]


def digest(sequences: SequenceSet) -> str:
    """Compute a checksum of all tokens, weights, turns and branches: 16 hex digits.

    Results that were computed from a set record it, so that they are not used with another set.
    """
    checksum = hashlib.sha256()
    for index in range(len(sequences)):
        sequence = sequences[index]
        for values in (
            sequence.input_ids,
            sequence.weights,
            sequence.turns,
            *(() if sequence.forks is None else (sequence.forks,)),
        ):
            checksum.update(np.ascontiguousarray(values).tobytes())
    return checksum.hexdigest()[:16]


def write_shard(path: Path, sequences: Sequence[TokenSequence]) -> None:
    """Write sequences to one safetensors file, atomically.

    It holds the sequences one after another as ``ids``, ``weights``, ``turns`` and ``forks``, and ``offsets``, int64
    ``(sequences + 1,)``.

    Raises
    ------
    ValueError
        For an empty shard.
    """
    if not sequences:
        raise ValueError(f"no sequences to write to {path}: a shard holds at least one")
    offsets = np.cumsum([0, *(len(s) for s in sequences)]).astype(np.int64)
    tensors: dict[str, npt.NDArray[Any]] = {
        "ids": np.concatenate([s.input_ids for s in sequences]).astype(np.int32),
        "weights": np.concatenate([s.weights for s in sequences]).astype(np.float32),
        "turns": np.concatenate([s.turns for s in sequences]).astype(np.int32),
        "forks": np.concatenate([np.zeros(len(s), np.int32) if s.forks is None else s.forks for s in sequences]).astype(np.int32),
        "offsets": offsets,
    }
    metadata = {"format": SEQUENCES_FORMAT, CHECKSUM: tensors_checksum(tensors)}
    fill_atomically(Path(path), lambda partial: save_file(tensors, partial, metadata=metadata))


def tensors_checksum(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the first 16 hex digits of the SHA-256 of all tensors and their names."""
    checksum = hashlib.sha256()
    for name in sorted(tensors):
        checksum.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return checksum.hexdigest()[:16]


def check_tensors(path: Path, metadata: Mapping[str, str] | None, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise ``FileError`` where the tensors of a file are not those that its metadata has the checksum of.

    Files of earlier releases have no checksum and are taken as they are.
    """
    written, here = (metadata or {}).get(CHECKSUM), tensors_checksum(tensors)
    if written not in (None, here):
        raise FileError(f"{path} is damaged (checksum {here}, not {written}): copy it again, or make it again")


class ShardedSequences:
    """A ``SequenceSet`` over shard files, in the order given. Tokens are read on demand through a memory map.

    Raises
    ------
    ValueError
        For no files, and for a file of another format.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = [Path(p) for p in paths]
        if not self.paths:
            raise ValueError("no shards to read: give the path of at least one file written by write_shard")
        self._files = [_open_shard(path) for path in self.paths]
        self._offsets: list[Int64] = [file.get_tensor("offsets") for file in self._files]
        self._starts = np.cumsum([0, *(len(o) - 1 for o in self._offsets)])
        self.lengths: Int64 = np.concatenate([np.diff(o) for o in self._offsets])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> TokenSequence:
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        row = index - int(self._starts[shard])
        start, end = (int(x) for x in self._offsets[shard][row : row + 2])
        file = self._files[shard]
        ids, weights, turns, forks = (file.get_slice(name)[start:end] for name in ("ids", "weights", "turns", "forks"))
        return TokenSequence(ids, weights, turns, forks if forks.any() else None)


def _open_shard(path: Path) -> Any:  # safetensors ships no types for its handle
    with reading(path, "copy it again, or make it again with write_shard"):
        file = safe_open(path, framework="numpy")
        metadata = file.metadata() or {}  # type: ignore[no-untyped-call]
        if metadata.get("format") == SEQUENCES_FORMAT:
            check_tensors(path, metadata, {name: file.get_tensor(name) for name in file.keys()})  # type: ignore[no-untyped-call]  # noqa: SIM118
    if metadata.get("format") != SEQUENCES_FORMAT:
        raise ValueError(f"{path} has format {metadata.get('format')!r}, not {SEQUENCES_FORMAT!r}: write it again with write_shard")
    return file
