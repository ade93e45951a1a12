"""Everything a prefill knows before it starts, laid out as tensors and sent to the device in one go.

Sent later, stage by stage, each copy would make the host wait for the layers queued before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule.schedule import Guards, PruneSchedule, StageCount, chunk_counts, chunk_numbers, forced_stages, stage_counts


@dataclass(frozen=True)
class ChunkTables:
    """The chunks of a batch, and what each stage does to them.

    ``numbers`` int64 ``(batch, n)``, the chunk of each token by its original position. ``starts`` and ``kept``, int64 ``(stages,
    batch, chunks + 1)``: where a chunk begins among the tokens that reach the stage, and how many of it survive. The last chunk
    is the rows' padding, of which nothing survives.
    """

    numbers: Tensor
    starts: Tensor
    kept: Tensor


@dataclass(frozen=True)
class PrefillLayout:
    """A batch of prompts, padded on the right to the longest.

    On the right, because a causal layer then needs no mask: no token looks at the padding behind it. ``ids`` int64 ``(batch, n)``;
    ``forced`` int64 ``(batch, n)``, stages that must keep a token (``schedule.forced_stages``); ``lengths`` int64
    ``(1 + stages, batch)``, true lengths of the rows at first and after each stage, which ``prompt_lengths`` and
    ``counts[row][stage]`` repeat on the host. By ``threshold``, lengths after a stage are not known, and ``lengths`` and
    ``counts`` end before the first. ``chunks`` is there for ``chunk_top_k``.
    """

    ids: Tensor
    forced: Tensor
    lengths: Tensor
    counts: tuple[tuple[StageCount, ...], ...]
    prompt_lengths: tuple[int, ...]
    guards: tuple[Guards, ...]
    chunks: ChunkTables | None = None

    def lengths_after(self, stage: int) -> tuple[int, ...]:
        """True lengths of the rows after ``stage`` (-1: before the first), known on the host."""
        return self.prompt_lengths if stage < 0 else tuple(row[stage].kept for row in self.counts)

    def drops(self, stage: int) -> bool:
        """Whether any row loses a token at ``stage``."""
        return self.lengths_after(stage) != self.lengths_after(stage - 1)


def lay_out(prompts: Sequence[TokenizedPrompt], schedule: PruneSchedule, device: torch.device) -> PrefillLayout:
    """Lay ``prompts`` out for ``schedule`` on ``device``."""
    width = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), width), np.int64)
    forced = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt.input_ids
        forced[row, : len(prompt)] = forced_stages(schedule, prompt.protected, prompt.segment_ends)
    known = schedule.rule != "threshold"
    counts = tuple(stage_counts(schedule, p.protected, p.segment_ends) if known else () for p in prompts)
    prompt_lengths = tuple(len(prompt) for prompt in prompts)
    lengths = np.array([prompt_lengths, *zip(*([count.kept for count in row] for row in counts), strict=True)], np.int64)
    sent_ids, sent_forced, sent_lengths = _sent(device, ids, forced, lengths)
    guards = tuple(Guards(schedule, prompt.protected) for prompt in prompts)
    chunks = _chunk_tables(prompts, schedule, device, width) if schedule.rule == "chunk_top_k" else None
    return PrefillLayout(sent_ids, sent_forced, sent_lengths, counts, prompt_lengths, guards, chunks)


def _chunk_tables(prompts: Sequence[TokenizedPrompt], schedule: PruneSchedule, device: torch.device, width: int) -> ChunkTables:
    chunks = max(len(prompt.segment_ends) for prompt in prompts) + 1
    numbers = np.full((len(prompts), width), chunks, np.int64)
    starts = np.zeros((len(schedule.stages), len(prompts), chunks + 1), np.int64)
    kept = np.zeros_like(starts)
    for row, prompt in enumerate(prompts):
        numbers[row, : len(prompt)] = chunk_numbers(len(prompt), prompt.segment_ends)
        for stage, count in enumerate(chunk_counts(schedule, prompt.protected, prompt.segment_ends)):
            ends = np.cumsum(count.before)
            starts[stage, row] = ends[-1]
            starts[stage, row, : len(ends)] = ends - count.before
            kept[stage, row, : len(ends)] = count.kept
    return ChunkTables(*_sent(device, numbers, starts, kept))


def _sent(device: torch.device, *tables: NDArray[np.int64]) -> Iterator[Tensor]:
    return (torch.from_numpy(table).to(device, non_blocking=True) for table in tables)
