"""From chat messages to training batches.

``encode_episode`` turns an episode into a ``Sequence`` whose tokens are exactly what the chat template renders, so that every
inference prompt of the episode is a prefix of it. ``Batches`` deals sequences out in batches of similar length.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from erecap.training.sequences import (
    ALWAYS_KEPT,
    NO_REPLAN,
    PLAN_WEIGHT,
    Float32,
    Int32,
    Int64,
    Sequence,
    SequenceList,
    SequenceSet,
    ShardedSequences,
    cut_after_plan,
    digest,
    write_shard,
)

__all__ = [
    "ALWAYS_KEPT",
    "NO_REPLAN",
    "PLAN_WEIGHT",
    "Batch",
    "Batches",
    "Message",
    "Sequence",
    "SequenceList",
    "SequenceSet",
    "ShardedSequences",
    "collate",
    "cut_after_plan",
    "digest",
    "encode_episode",
    "later_plans",
    "length_curriculum",
    "write_shard",
]

Message = Mapping[str, Any]
"""``role`` and ``content`` as for a chat template; optional flags: ``train`` (assistant; default true), ``protected``
(never pruned; default: system messages), ``same_turn`` (this message does not begin a new turn though a plan came before it); and
``label``, the plan that an assistant message should have been."""

Curriculum = Callable[[float], int]


def encode_episode(
    tokenizer: PreTrainedTokenizerBase,
    messages: SequenceABC[Message],
    other_weight: float = 0.3,
    untrained_weight: float = 0.0,
    answers_begin_turns: bool = False,
) -> Sequence:
    """Encode chat messages as the tokenizer's chat template renders them, with a weight per target token.

    Assistant messages weigh ``PLAN_WEIGHT``, closing ``<|im_end|>`` included; one with ``train: False`` (a wrong plan that stays in
    the context but must not be imitated) weighs ``untrained_weight``; everything else ``other_weight``. A wrong plan with a
    ``label`` is trained up to the token at which the two part, whose target is the label's. With ``answers_begin_turns`` an
    assistant message is not of the turn of what it answers, so that all before it may be pruned when it is given. Raises
    ``ValueError`` where the template changes a message's text, or where a plan does not begin at a token of its own.
    """
    text, heads, spans = _render(tokenizer, messages)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.asarray(encoding["input_ids"], dtype=np.int32)
    starts = np.asarray(encoding["offset_mapping"], dtype=np.int64)[:, 0]
    weights = np.full(len(ids), other_weight, dtype=np.float32)
    turns, targets = np.zeros(len(ids), dtype=np.int32), ids.copy()
    # a message begins at the special token before its role
    begins = [0, *(int(np.searchsorted(starts, head)) - 1 for head in heads[1:])]
    for message, begin, turn, span in zip(messages, begins, _turns(messages, answers_begin_turns), spans, strict=True):
        turns[begin:] = turn
        if message["role"] == "assistant":
            plan = _plan_tokens(starts, *span)
            weights[plan] = PLAN_WEIGHT if message.get("train", True) else untrained_weight
            if "label" in message:
                label = tokenizer(message["label"], add_special_tokens=False)["input_ids"]
                _correct(targets[plan], weights[plan], [*label, ids[plan][-1]])
    return Sequence(ids, weights, turns, targets)


def _correct(targets: Int32, weights: Float32, label: SequenceABC[int]) -> None:
    """Make the label's token the target where the plan's tokens first differ from it; up to there the plan is the label's.

    Both end in the closing token, so that neither is the other's beginning.
    """
    parts = next((i for i, (played, wanted) in enumerate(zip(targets, label, strict=False)) if played != wanted), None)
    if parts is not None:
        targets[parts], weights[: parts + 1] = label[parts], PLAN_WEIGHT


def _render(tokenizer: PreTrainedTokenizerBase, messages: SequenceABC[Message]) -> tuple[str, list[int], list[tuple[int, int]]]:
    """The rendered text; per message where its role stands in it, and the character span of its content."""
    chat = [{"role": m["role"], "content": m["content"]} for m in messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert isinstance(text, str)
    heads, spans, position = [], [], 0
    for index, message in enumerate(chat):
        head = text.find(message["role"], position)
        start = text.find(message["content"], head + len(message["role"]))
        if head < 0 or start < 0:
            raise ValueError(f"message {index} is not in the rendered chat as it stands: strip white space at its ends")
        position = start + len(message["content"])
        heads.append(head)
        spans.append((start, position))
    return text, heads, spans


def _plan_tokens(starts: Int64, begin: int, end: int) -> slice:
    """The tokens of the text at [begin, end) and the closing token that starts at ``end``."""
    first, closing = (int(i) for i in np.searchsorted(starts, (begin, end)))
    if first >= len(starts) or starts[first] != begin:
        raise ValueError(f"the plan at character {begin} begins inside a token: strip white space at its start")
    return slice(first, closing + 1)


def _turns(messages: SequenceABC[Message], answers_begin_turns: bool) -> list[int]:
    turns, turn, answered = [], 0, False
    for message in messages:
        answers = message["role"] == "assistant"
        if answers if answers_begin_turns else answered and not answers and not message.get("same_turn", False):
            turn += 1
        answered = answers
        turns.append(ALWAYS_KEPT if message.get("protected", message["role"] == "system") else turn)
    return turns


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences: ``input_ids`` int64, ``weights`` float32, ``turns`` int64, ``targets`` int64, all [rows, length].

    ``lengths`` int64 [rows]; padding has weight 0 and turn ``ALWAYS_KEPT``. ``indices`` are the rows' numbers in the set.
    """

    input_ids: torch.Tensor
    weights: torch.Tensor
    turns: torch.Tensor
    targets: torch.Tensor
    lengths: torch.Tensor
    indices: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Real tokens, padding excluded."""
        return int(self.lengths.sum())

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``."""
        names = ("input_ids", "weights", "turns", "targets", "lengths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def later_plans(batch: Batch) -> torch.Tensor:
    """bool [rows, length]: tokens of plans to imitate that follow an earlier turn. The first prompt has nothing to prune."""
    return (batch.weights >= PLAN_WEIGHT) & (batch.turns >= 1)


def collate(sequences: SequenceABC[Sequence], indices: SequenceABC[int] = (), pad_id: int = 0) -> Batch:
    """Pad sequences on the right to the longest. Causal attention never looks right, so that padding changes no real token."""
    lengths = torch.tensor([len(s) for s in sequences])
    shape = (len(sequences), int(lengths.max()))
    ids, targets = (torch.full(shape, pad_id, dtype=torch.int64) for _ in range(2))
    weights, turns = torch.zeros(shape), torch.full(shape, ALWAYS_KEPT, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence.input_ids.astype(np.int64))
        targets[row, : len(sequence)] = torch.from_numpy(sequence.targets.astype(np.int64))
        weights[row, : len(sequence)] = torch.from_numpy(sequence.weights)
        turns[row, : len(sequence)] = torch.from_numpy(sequence.turns.astype(np.int64))
    return Batch(ids, weights, turns, targets, lengths, tuple(indices) or tuple(range(len(sequences))))


def length_curriculum(shortest: int, longest: int, full_at: float = 0.4) -> Curriculum:
    """Longest allowed sequence by training progress (0..1): geometric from ``shortest`` to ``longest`` at ``full_at``."""
    if not 0 < shortest <= longest or not 0 < full_at <= 1:
        raise ValueError(f"curriculum {shortest}..{longest} by {full_at}: give 0 < shortest <= longest and 0 < full_at <= 1")

    def limit(progress: float) -> int:
        share = min(1.0, progress / full_at)
        return round(shortest * math.pow(longest / shortest, share))

    return limit


class Batches:
    """An endless, deterministic deal of batches.

    Each epoch groups the set anew into batches of similar length whose padded size is at most ``token_budget`` tokens (a longer
    sequence is alone in its batch) and shuffles the batches. ``curriculum`` gives the longest sequence allowed at a progress;
    batches beyond it are passed over until they are allowed. ``only`` names the sequences to deal, all by default: batches keep
    their numbers in the set. The position is (epoch, batch) and travels in ``state_dict``.
    """

    def __init__(
        self,
        sequences: SequenceSet,
        token_budget: int = 4096,
        seed: int = 0,
        pad_id: int = 0,
        curriculum: Curriculum | None = None,
        only: SequenceABC[int] | None = None,
    ) -> None:
        self._rows = np.arange(len(sequences)) if only is None else np.asarray(only, dtype=np.int64)
        if not len(self._rows) or token_budget < 1:
            raise ValueError(f"{len(self._rows)} sequences in batches of {token_budget} tokens: give at least one of each")
        self.sequences, self.token_budget, self.seed = sequences, token_budget, seed
        self.pad_id, self.curriculum = pad_id, curriculum
        self.epoch = self.position = 0
        self._plan = self._deal(0)

    def next(self, progress: float = 0.0) -> Batch:
        """The next batch that the curriculum allows at ``progress`` (0..1)."""
        limit = self._limit(progress)
        while True:
            if self.position >= len(self._plan):
                self.epoch, self.position = self.epoch + 1, 0
                self._plan = self._deal(self.epoch)
            rows = self._plan[self.position]
            self.position += 1
            if self.sequences.lengths[rows].max() <= limit:
                return self._batch(rows)

    def once(self) -> Iterator[Batch]:
        """Each sequence once, in the order of the first epoch; the position stays."""
        return (self._batch(rows) for rows in self._deal(0))

    def _batch(self, rows: Int64) -> Batch:
        return collate([self.sequences[int(i)] for i in rows], [int(i) for i in rows], self.pad_id)

    def state_dict(self) -> dict[str, int]:
        """Where the deal stands."""
        return {"epoch": self.epoch, "position": self.position, "sequences": len(self._rows), "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a saved state. Raises ``ValueError`` where it belongs to another set or seed."""
        mine = self.state_dict()
        for key in ("sequences", "seed"):
            if state[key] != mine[key]:
                raise ValueError(f"saved batches have {key}={state[key]}, these {mine[key]}: resume with the same data and seed")
        self.epoch, self.position = state["epoch"], state["position"]
        self._plan = self._deal(self.epoch)

    def _limit(self, progress: float) -> int:
        longest = int(self.sequences.lengths[self._rows].max())
        limit = longest if self.curriculum is None else self.curriculum(progress)
        # groups mix similar lengths: at least the group that holds the shortest sequence must stay allowed
        return max(limit, min(int(self.sequences.lengths[rows].max()) for rows in self._plan))

    def _deal(self, epoch: int) -> list[Int64]:
        rng = np.random.default_rng([self.seed, epoch])
        lengths = self.sequences.lengths
        # jitter, so that a sequence meets other neighbours in each epoch
        order = self._rows[np.argsort(lengths[self._rows] * rng.uniform(0.95, 1.05, len(self._rows)), kind="stable")]
        groups = _group(order, lengths, self.token_budget)
        return [groups[i] for i in rng.permutation(len(groups))]


def _group(order: Int64, lengths: Int64, budget: int) -> list[Int64]:
    """Cut ``order`` into runs whose padded size (rows x longest) fits the budget."""
    groups, start, longest = [], 0, 0
    for end, index in enumerate(order):
        longest = max(longest, int(lengths[index]))
        if end > start and (end - start + 1) * longest > budget:
            groups.append(order[start:end])
            start, longest = end, int(lengths[index])
    groups.append(order[start:])
    return groups
