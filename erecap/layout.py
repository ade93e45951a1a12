"""Everything a prefill knows before it starts, laid out as tensors and sent to the device in one go.

Sent later, stage by stage, each copy would make the host wait for the layers queued before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from erecap.schedule import PruneSchedule, StageCount, forced_stages, stage_counts
from erecap.tokenization import TokenizedPrompt


@dataclass(frozen=True)
class PrefillLayout:
    """A batch of prompts, padded on the right to the longest.

    On the right, because a causal layer then needs no mask: no token looks at the padding behind it. ``ids`` int64 ``(batch, n)``;
    ``forced`` int64 ``(batch, n)``, stages that must keep a token (``schedule.forced_stages``); ``lengths`` int64
    ``(1 + stages, batch)``, true lengths of the rows at first and after each stage, which ``prompt_lengths`` and
    ``counts[row][stage]`` repeat on the host.
    """

    ids: Tensor
    forced: Tensor
    lengths: Tensor
    counts: tuple[tuple[StageCount, ...], ...]
    prompt_lengths: tuple[int, ...]

    def lengths_after(self, stage: int) -> tuple[int, ...]:
        """True lengths of the rows after ``stage`` (-1: before the first), known on the host."""
        return self.prompt_lengths if stage < 0 else tuple(row[stage].kept for row in self.counts)

    def even(self, stage: int) -> bool:
        """Whether all rows are of one length after ``stage``, so that there is no padding."""
        return len(set(self.lengths_after(stage))) == 1

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
        forced[row, : len(prompt)] = forced_stages(schedule, prompt.protected)
    counts = tuple(stage_counts(schedule, prompt.protected) for prompt in prompts)
    prompt_lengths = tuple(len(prompt) for prompt in prompts)
    lengths = np.array([prompt_lengths, *([row[s].kept for row in counts] for s in range(len(schedule.stages)))], np.int64)
    sent_ids, sent_forced, sent_lengths = (
        torch.from_numpy(table).to(device, non_blocking=True) for table in (ids, forced, lengths)
    )
    return PrefillLayout(sent_ids, sent_forced, sent_lengths, counts, prompt_lengths)
