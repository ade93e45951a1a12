"""The layout of a prefill: everything that is known before it starts, as tensors that are copied to the device at once.

A copy between two layers would make the host wait for all layers queued before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erecap.models.row_sizes import EVERY_SIZE, RowSizes
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage, Rule
from erecap.schedule.counts import Guards, PromptCounts, chunk_numbers, count_prompt


@dataclass(frozen=True)
class ChunkTables:
    """The chunks of a batch at one stage. The last chunk of a row is its padding, of which nothing survives.

    Attributes
    ----------
    numbers
        Chunk of each token by its original position, int64 ``(batch, n)``; the same tensor at every stage.
    starts
        Column at which each chunk begins among the tokens that reach the stage, int64 ``(batch, chunks + 1)``.
    kept
        Tokens of each chunk that survive the stage, int64 ``(batch, chunks + 1)``.
    """

    numbers: Tensor
    starts: Tensor
    kept: Tensor

    def on(self, device: torch.device) -> "ChunkTables":
        """Return the tables on ``device``."""
        return ChunkTables(self.numbers.to(device), self.starts.to(device), self.kept.to(device))


@dataclass(frozen=True)
class StageLayout:
    """One stage of a prefill, with all that is known before the first layer runs.

    Attributes
    ----------
    index
        Number of the stage in its schedule, from 0.
    after_layer
        Layer after which it comes.
    rule
        Rule by which it chooses among the tokens that are not forced.
    tau
        Score that a token must exceed, for the rule ``threshold``.
    guards
        The forced tokens of each row.
    counts
        Number of tokens of each row after the stage, on the host; ``None`` where it depends on the scores.
    lengths
        ``counts`` on the device, int64 ``(batch,)``; ``None`` where they depend on the scores.
    chunks
        The chunks, for the rule ``chunk_top_k``.
    """

    index: int
    after_layer: int
    rule: Rule
    tau: float | None
    guards: tuple[Guards, ...]
    counts: tuple[int, ...] | None = None
    lengths: Tensor | None = None
    chunks: ChunkTables | None = None

    def can_drop(self, reaching: tuple[int, ...]) -> bool:
        """Tell whether any row may lose a token here, given the number of tokens of each row that reach the stage."""
        if self.counts is not None:
            return self.counts != reaching
        return any(count > guards.forced(count) for count, guards in zip(reaching, self.guards, strict=True))

    def on(self, device: torch.device) -> "StageLayout":
        """Return the stage with its tensors on ``device``, where its layer computes."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        chunks = None if self.chunks is None else self.chunks.on(device)
        return replace(self, lengths=lengths, chunks=chunks)


@dataclass(frozen=True)
class PrefillLayout:
    """A batch of prompts, padded on the right to one size.

    With padding on the right a causal layer needs no mask: no token attends to the padding after it.

    Attributes
    ----------
    ids
        Token ids, int64 ``(batch, n)``.
    forced
        Number of leading stages that must keep each token, int64 ``(batch, n)`` (``PromptCounts.forced_stages``).
    prompt_lengths
        Number of tokens of each row, on the host.
    lengths
        ``prompt_lengths`` on the device, int64 ``(batch,)``.
    stages
        The stages, in the order of layers.
    sizes
        The sizes to which prompts and survivors are padded.
    """

    ids: Tensor
    forced: Tensor
    prompt_lengths: tuple[int, ...]
    lengths: Tensor
    stages: tuple[StageLayout, ...]
    sizes: RowSizes


def lay_out(
    prompts: Sequence[TokenizedPrompt], schedule: PruneSchedule, device: torch.device, sizes: RowSizes = EVERY_SIZE
) -> PrefillLayout:
    """Make the layout of a batch for a schedule, on ``device``, padded to one of ``sizes``."""
    rows = [count_prompt(schedule, prompt.protected, prompt.segment_ends) for prompt in prompts]
    lengths = tuple(len(prompt) for prompt in prompts)
    width = sizes.at_least(max(lengths))
    ids = _padded([prompt.input_ids for prompt in prompts], width, 0)
    forced = _padded([row.forced_stages() for row in rows], width, 0)
    sent_ids, sent_forced, sent_lengths = _sent(device, ids, forced, np.array(lengths, np.int64))
    return PrefillLayout(
        sent_ids, sent_forced, lengths, sent_lengths, _lay_out_stages(prompts, rows, schedule, device, width), sizes
    )


def _lay_out_stages(
    prompts: Sequence[TokenizedPrompt], rows: Sequence[PromptCounts], schedule: PruneSchedule, device: torch.device, width: int
) -> tuple[StageLayout, ...]:
    guards = tuple(row.guards for row in rows)
    if schedule.rule == "threshold":
        return tuple(_stage(index, stage, schedule.rule, guards) for index, stage in enumerate(schedule.stages))
    counts = _counts(rows, len(schedule.stages))
    (lengths,) = _sent(device, np.array(counts, np.int64).reshape(len(counts), len(rows)))
    chunks = _chunk_tables(prompts, rows, len(counts), device, width) if schedule.rule == "chunk_top_k" else [None] * len(counts)
    return tuple(
        _stage(index, stage, schedule.rule, guards, counts[index], lengths[index], chunks[index])
        for index, stage in enumerate(schedule.stages)
    )


def _stage(
    index: int,
    stage: PruneStage,
    rule: Rule,
    guards: tuple[Guards, ...],
    counts: tuple[int, ...] | None = None,
    lengths: Tensor | None = None,
    chunks: ChunkTables | None = None,
) -> StageLayout:
    return StageLayout(index, stage.after_layer, rule, stage.tau, guards, counts, lengths, chunks)


def _counts(rows: Sequence[PromptCounts], stages: int) -> list[tuple[int, ...]]:
    """Return, for each stage, the number of tokens of each row that survive it."""
    kept = [[count.kept for count in row.stages or ()] for row in rows]
    return [tuple(row[stage] for row in kept) for stage in range(stages)]


def _chunk_tables(
    prompts: Sequence[TokenizedPrompt], rows: Sequence[PromptCounts], stages: int, device: torch.device, width: int
) -> list[ChunkTables]:
    most = max(len(prompt.segment_ends) for prompt in prompts) + 1
    numbers = _padded([chunk_numbers(len(prompt), prompt.segment_ends) for prompt in prompts], width, most)
    starts = np.zeros((stages, len(prompts), most + 1), np.int64)
    kept = np.zeros_like(starts)
    for number, row in enumerate(rows):
        for stage, count in enumerate(row.chunks):
            ends = np.cumsum(count.before)
            starts[stage, number] = ends[-1]
            starts[stage, number, : len(ends)] = ends - count.before
            kept[stage, number, : len(ends)] = count.kept
    sent_numbers, sent_starts, sent_kept = _sent(device, numbers, starts, kept)
    return [ChunkTables(sent_numbers, sent_starts[stage], sent_kept[stage]) for stage in range(stages)]


def _padded(rows: Sequence[NDArray[np.int64]], width: int, filler: int) -> NDArray[np.int64]:
    """Stack rows of different lengths, padded on the right: int64 ``(batch, width)``."""
    table = np.full((len(rows), width), filler, np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _sent(device: torch.device, *tables: NDArray[np.int64]) -> Iterator[Tensor]:
    return (torch.from_numpy(table).to(device, non_blocking=True) for table in tables)
