"""The rules by which a stage chooses survivors from scores. A new rule is a function and a line in ``RULES``.

For ``top_k`` and ``chunk_top_k`` the host knows how many tokens survive, so it never waits for the device. For ``threshold`` the
number depends on the scores. The host waits for it once per stage, because it sets the shapes of all later tensors.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from erecap.engine.layout import StageLayout
from erecap.engine.selection import above, chunk_top_k, places, top_k
from erecap.engine.stream import Stream, Survivors
from erecap.schedule import Rule


def survivors(scores: Tensor, stream: Stream, stage: StageLayout) -> Survivors:
    """Choose the tokens of ``stream`` that survive ``stage``; ``scores`` float32 ``(batch, n)``, higher = keep."""
    return RULES[stage.rule](scores, stream, stage)


def forced_now(stream: Stream, stage: StageLayout) -> Tensor:
    """Mark the tokens that ``stage`` must keep, bool ``(batch, n)``.

    For ``threshold`` the tail is found here, as the last tokens that reach the stage. Padding may be marked too.
    """
    if stage.rule != "threshold":
        return stream.forced > stage.index
    starts = [count - guards.tail(count) for count, guards in zip(stream.counts, stage.guards, strict=True)]
    device = stream.positions.device
    tail = torch.arange(stream.positions.shape[1], device=device) >= torch.tensor(starts).to(device, non_blocking=True)[:, None]
    return (stream.forced > stage.index) | tail


def _top_k(scores: Tensor, stream: Stream, stage: StageLayout) -> Survivors:
    counts, lengths = _known(stage)
    width = stream.width_for(counts)
    row_keep = None if min(counts) == width else lengths
    return Survivors(top_k(scores, forced_now(stream, stage), width, row_keep, stream.padding()), counts, lengths)


def _chunk_top_k(scores: Tensor, stream: Stream, stage: StageLayout) -> Survivors:
    assert stage.chunks is not None, "lay_out makes them for this rule"
    counts, lengths = _known(stage)
    chunks, padding = stage.chunks.numbers.gather(1, stream.positions), stream.padding()
    if padding is not None:
        chunks = chunks.masked_fill(padding, stage.chunks.kept.shape[-1] - 1)
    index = chunk_top_k(scores, forced_now(stream, stage), chunks, stage.chunks.starts, stage.chunks.kept, stream.width_for(counts))
    return Survivors(index, counts, lengths)


def _threshold(scores: Tensor, stream: Stream, stage: StageLayout) -> Survivors:
    assert stage.tau is not None, "the schedule has checked it"
    survives = above(scores, forced_now(stream, stage), stage.tau, stream.padding())
    lengths = survives.sum(-1)
    counts = tuple(lengths.tolist())  # the host waits for the device here
    return Survivors(places(survives, stream.width_for(counts)), counts, lengths)


def _known(stage: StageLayout) -> tuple[tuple[int, ...], Tensor]:
    assert stage.counts is not None, "lay_out counts them for this rule"
    assert stage.lengths is not None, "lay_out counts them for this rule"
    return stage.counts, stage.lengths


RULES: dict[Rule, Callable[[Tensor, Stream, StageLayout], Survivors]] = {
    "top_k": _top_k,
    "chunk_top_k": _chunk_top_k,
    "threshold": _threshold,
}
