"""The rules by which a stage drops tokens: from what is laid out and the scores to survivors. A new one is a line in ``RULES``.

``top_k`` and ``chunk_top_k`` know on the host how many tokens they keep and wait for nothing. ``threshold`` keeps as many as score
high enough: once per stage the host waits for that number, since what comes next is sized by it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from erecap.engine.layout import PrefillLayout
from erecap.engine.selection import above, chunk_top_k, places, top_k
from erecap.engine.stream import Stream, Survivors
from erecap.schedule.schedule import PruneSchedule, Rule


def drops(stream: Stream, layout: PrefillLayout, schedule: PruneSchedule, stage: int) -> bool:
    """Whether ``stage`` can drop any token, as far as is known before it is scored."""
    if schedule.rule == "threshold":
        return any(count > guards.forced(count) for count, guards in zip(stream.counts, layout.guards, strict=True))
    return layout.drops(stage)


def survivors(scores: Tensor, stream: Stream, layout: PrefillLayout, schedule: PruneSchedule, stage: int) -> Survivors:
    """What ``stage`` leaves of ``stream``; ``scores`` float32 ``(batch, n)``, higher = keep."""
    return RULES[schedule.rule](scores, stream, layout, schedule, stage)


def forced_now(stream: Stream, layout: PrefillLayout, schedule: PruneSchedule, stage: int) -> Tensor:
    """Which tokens ``stage`` must keep, bool ``(batch, n)``.

    By ``threshold`` the layout cannot know the tail: it is the end of what has reached the stage. Padding may be marked too.
    """
    if schedule.rule != "threshold":
        return stream.forced > stage
    starts = [count - guards.tail(count) for count, guards in zip(stream.counts, layout.guards, strict=True)]
    device = stream.positions.device
    tail = torch.arange(stream.positions.shape[1], device=device) >= torch.tensor(starts).to(device, non_blocking=True)[:, None]
    return (stream.forced > stage) | tail


def _top_k(scores: Tensor, stream: Stream, layout: PrefillLayout, schedule: PruneSchedule, stage: int) -> Survivors:
    forced, counts, lengths = forced_now(stream, layout, schedule, stage), layout.lengths_after(stage), layout.lengths[stage + 1]
    even = stream.even and len(set(counts)) == 1
    index = top_k(scores, forced, max(counts), None if even else lengths, None if even else stream.padding())
    return Survivors(index, counts, lengths)


def _chunk_top_k(scores: Tensor, stream: Stream, layout: PrefillLayout, schedule: PruneSchedule, stage: int) -> Survivors:
    assert layout.chunks is not None, "lay_out makes them for this rule"
    chunks, padding = layout.chunks.numbers.gather(1, stream.positions), stream.padding()
    if padding is not None:
        chunks = chunks.masked_fill(padding, layout.chunks.kept.shape[-1] - 1)
    forced, counts = forced_now(stream, layout, schedule, stage), layout.lengths_after(stage)
    index = chunk_top_k(scores, forced, chunks, layout.chunks.starts[stage], layout.chunks.kept[stage], max(counts))
    return Survivors(index, counts, layout.lengths[stage + 1])


def _threshold(scores: Tensor, stream: Stream, layout: PrefillLayout, schedule: PruneSchedule, stage: int) -> Survivors:
    tau = schedule.stages[stage].tau
    assert tau is not None, "the schedule has checked it"
    survives = above(scores, forced_now(stream, layout, schedule, stage), tau, stream.padding())
    lengths = survives.sum(-1)
    counts = tuple(lengths.tolist())  # the one wait of this stage
    return Survivors(places(survives, max(counts)), counts, lengths)


RULES: dict[Rule, Callable[[Tensor, Stream, PrefillLayout, PruneSchedule, int], Survivors]] = {
    "top_k": _top_k,
    "chunk_top_k": _chunk_top_k,
    "threshold": _threshold,
}
