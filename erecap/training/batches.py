"""Batches of training sequences: similar lengths together, padded on the right."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from erecap.training.sequences import ALWAYS_KEPT, PLAN_WEIGHT, Int64, SequenceSet, TokenSequence

Curriculum = Callable[[float], int]
"""A function from training progress (0..1) to the longest sequence allowed, in tokens."""


@dataclass(frozen=True)
class Batch:
    """A batch of sequences, padded on the right. Padding has weight 0 and turn ``ALWAYS_KEPT``.

    Attributes
    ----------
    input_ids
        Token ids, int64 ``(rows, length)``.
    weights
        Weights of the targets, float32 ``(rows, length)``: ``PLAN_WEIGHT`` or 0 on plans, between them on all other tokens.
    turns
        Turn of each token (``TokenSequence.turns``), int64 ``(rows, length)``.
    lengths
        Tokens of each row without padding, int64 ``(rows,)``.
    indices
        Number of each row in the sequence set.
    forks
        Branches (``TokenSequence.forks``), int64 ``(rows, length)``; ``None`` where no row has one.
    branches_begin
        Index of the first token of a branch in any row; ``None`` where no row has one.
    """

    input_ids: torch.Tensor
    weights: torch.Tensor
    turns: torch.Tensor
    lengths: torch.Tensor
    indices: tuple[int, ...]
    forks: torch.Tensor | None = None
    branches_begin: int | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens, padding excluded."""
        return int(self.lengths.sum())

    def weighing_others(self, weight: float) -> "Batch":
        """Copy the batch with another weight of the targets outside plans. Those of plans, and those of weight 0, keep theirs."""
        others = (self.weights > 0) & (self.weights < PLAN_WEIGHT)
        return replace(self, weights=torch.where(others, weight, self.weights))

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to ``device``."""
        names = ("input_ids", "weights", "turns", "lengths", *(() if self.forks is None else ("forks",)))
        pinned = device.type != "cpu"  # then the host goes on while the copy is made
        tensors = ((name, getattr(self, name)) for name in names)
        moved = {name: (one.pin_memory() if pinned else one).to(device, non_blocking=pinned) for name, one in tensors}
        return replace(self, **moved)


def later_plans(batch: Batch) -> torch.Tensor:
    """Mark the tokens of plans to imitate, from the second turn on: bool ``(rows, length)``.

    The plan of the first turn is left out, since its prompt has nothing to prune.
    """
    return (batch.weights >= PLAN_WEIGHT) & (batch.turns >= 1)


def current_plans(batch: Batch, chosen: torch.Tensor) -> torch.Tensor:
    """Mark the plan that was carried out last before a replan, which the replan's prompt protects: bool ``(rows, length)``.

    It is the newest plan of the turns before, whether it is one to imitate or not.

    Parameters
    ----------
    batch
        Whole episodes.
    chosen
        Turn of each row's replan, int64 ``(rows,)``.
    """
    places = torch.arange(batch.turns.shape[1], device=batch.turns.device)
    of_plans = (batch.weights >= PLAN_WEIGHT) | (batch.weights == 0)
    older = of_plans & (batch.turns >= 0) & (batch.turns < chosen[:, None])
    last = torch.where(older, places, -1).amax(1, keepdim=True)
    before = torch.where(~older & (places < last), places, -1).amax(1, keepdim=True)
    return (places > before) & (places <= last)


def later_plan_count(sequence: TokenSequence) -> int:
    """Count the turns of a sequence, from the second on, that have a plan to imitate (``later_plans``)."""
    return len(np.unique(sequence.turns[(sequence.weights >= PLAN_WEIGHT) & (sequence.turns >= 1)]))


def collate(sequences: Sequence[TokenSequence], indices: Sequence[int] = (), pad_id: int = 0, length: int | None = None) -> Batch:
    """Pad sequences on the right, to the longest one or to ``length``. Attention is causal, so padding changes no real token.

    Parameters
    ----------
    sequences
        The rows.
    indices
        Number of each row in its set; 0, 1, ... by default.
    pad_id
        The token id of the padding.
    length
        Tokens of a padded row.
    """
    lengths = torch.tensor([len(s) for s in sequences])
    shape = (len(sequences), int(lengths.max()) if length is None else length)
    ids, weights = torch.full(shape, pad_id, dtype=torch.int64), torch.zeros(shape)
    turns, forks = torch.full(shape, ALWAYS_KEPT, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence.input_ids.astype(np.int64))
        weights[row, : len(sequence)] = torch.from_numpy(sequence.weights)
        turns[row, : len(sequence)] = torch.from_numpy(sequence.turns.astype(np.int64))
        if sequence.forks is not None:
            forks[row, : len(sequence)] = torch.from_numpy(sequence.forks.astype(np.int64))
    begin = min((sequence.episode_length for sequence in sequences if sequence.forks is not None), default=None)
    numbers = tuple(indices) or tuple(range(len(sequences)))
    return Batch(ids, weights, turns, lengths, numbers, None if begin is None else forks, begin)


def length_curriculum(shortest: int, longest: int, full_at: float = 0.4) -> Curriculum:
    """Let the longest allowed sequence grow geometrically with the training progress.

    Parameters
    ----------
    shortest, longest
        Tokens allowed at the start, and from ``full_at`` on.
    full_at
        The progress (0..1) at which ``longest`` is reached.

    Raises
    ------
    ValueError
        Unless 0 < ``shortest`` <= ``longest`` and 0 < ``full_at`` <= 1.
    """
    if not 0 < shortest <= longest or not 0 < full_at <= 1:
        raise ValueError(f"curriculum {shortest}..{longest} by {full_at}: give 0 < shortest <= longest and 0 < full_at <= 1")

    def limit(progress: float) -> int:
        share = min(1.0, progress / full_at)
        return round(shortest * math.pow(longest / shortest, share))

    return limit


class Batches:
    """An endless, deterministic stream of batches.

    Each epoch groups the sequences into new batches of similar length, and shuffles the batches. ``state_dict`` saves the position
    in the stream.

    Parameters
    ----------
    sequences
        The set to take from.
    token_budget
        Largest size of a batch in tokens, padding included. A longer sequence is alone in its batch.
    seed
        Seed of grouping and order.
    curriculum
        Longest sequence allowed at a training progress; batches with longer ones are skipped until then. ``None`` allows all.
    only
        Numbers of the sequences to use; all by default.
    sizes
        Lengths that rows are padded to, in ascending order; a longer one to a multiple of the last. By default a row is padded to
        the longest of its batch. Few lengths make few shapes.

    Raises
    ------
    ValueError
        For no sequences, and for a budget below 1 token.
    """

    def __init__(
        self,
        sequences: SequenceSet,
        token_budget: int = 4096,
        seed: int = 0,
        curriculum: Curriculum | None = None,
        only: Sequence[int] | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        self._rows = np.arange(len(sequences)) if only is None else np.asarray(only, dtype=np.int64)
        if not len(self._rows) or token_budget < 1:
            raise ValueError(f"{len(self._rows)} sequences in batches of {token_budget} tokens: give at least one of each")
        self.sequences, self.token_budget, self.seed = sequences, token_budget, seed
        self.curriculum, self.sizes = curriculum, tuple(sizes)
        self._padded = _rounded(sequences.lengths, self.sizes)
        self._longest = int(sequences.lengths[self._rows].max())
        self.epoch = self.position = 0
        self._batches = self._grouped(0)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the sequences in use, as in ``Batch.indices``."""
        return tuple(self._rows.tolist())

    def only(self, numbers: Sequence[int]) -> "Batches":
        """Return a stream of other sequences of the same set, with the same settings, at its beginning."""
        return Batches(self.sequences, self.token_budget, self.seed, self.curriculum, numbers, self.sizes)

    def next(self, progress: float = 0.0) -> Batch:
        """Return the next batch that the curriculum allows at ``progress`` (0..1)."""
        limit = self._limit(progress)
        while True:
            if self.position >= len(self._batches):
                self.epoch, self.position = self.epoch + 1, 0
                self._batches = self._grouped(self.epoch)
            rows = self._batches[self.position]
            self.position += 1
            if self.sequences.lengths[rows].max() <= limit:
                return self._batch(rows)

    def once(self) -> Iterator[Batch]:
        """Yield each sequence once, in the batches of the first epoch. The position in the stream does not change."""
        return (self._batch(rows) for rows in self._grouped(0))

    def _batch(self, rows: Int64) -> Batch:
        return collate([self.sequences[int(i)] for i in rows], [int(i) for i in rows], length=int(self._padded[rows].max()))

    def state_dict(self) -> dict[str, int]:
        """Return the position in the stream, and the facts that identify the stream."""
        return {"epoch": self.epoch, "position": self.position, "sequences": len(self._rows), "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a saved position. Raises ``ValueError`` where it belongs to another set or seed."""
        mine = self.state_dict()
        for key in ("sequences", "seed"):
            if state[key] != mine[key]:
                raise ValueError(f"saved batches have {key}={state[key]}, these {mine[key]}: resume with the same data and seed")
        self.epoch, self.position = state["epoch"], state["position"]
        self._batches = self._grouped(self.epoch)

    def _limit(self, progress: float) -> int:
        limit = self._longest if self.curriculum is None else self.curriculum(progress)
        return max(limit, self._shortest)  # always allow at least one batch: the one with the smallest maximum length

    def _grouped(self, epoch: int) -> list[Int64]:
        rng = np.random.default_rng([self.seed, epoch])
        lengths = self.sequences.lengths
        # jitter gives a sequence other neighbours in each epoch
        order = self._rows[np.argsort(lengths[self._rows] * rng.uniform(0.95, 1.05, len(self._rows)), kind="stable")]
        groups = _group(order, self._padded, self.token_budget)
        self._shortest = min(int(lengths[rows].max()) for rows in groups)
        return [groups[i] for i in rng.permutation(len(groups))]


def _rounded(lengths: Int64, sizes: Sequence[int]) -> Int64:
    """Round lengths up to ``sizes``, longer ones to multiples of the last."""
    if not sizes:
        return lengths
    known = np.asarray(sizes, dtype=np.int64)
    multiples = -(-lengths // known[-1]) * known[-1]
    return np.where(lengths <= known[-1], known[np.minimum(np.searchsorted(known, lengths), len(known) - 1)], multiples)


def _group(order: Int64, lengths: Int64, budget: int) -> list[Int64]:
    """Cut ``order`` into groups whose padded size (rows x longest) fits the budget."""
    groups, start, longest = [], 0, 0
    for end, index in enumerate(order):
        longest = max(longest, int(lengths[index]))
        if end > start and (end - start + 1) * longest > budget:
            groups.append(order[start:end])
            start, longest = end, int(lengths[index])
    groups.append(order[start:])
    return groups
