"""Prefill with pruning: the layers of a stock model run one by one, and tokens are dropped between them.

The baseline is this same path with the empty schedule. Does not know tokenizers, text or sampling; ``decoding`` goes on from the
cache that is left here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from erecap.engine.layout import PrefillLayout, lay_out
from erecap.engine.rules import drops, survivors
from erecap.engine.stream import Stream
from erecap.models.architecture import DecoderParts, check_length, decoder_parts
from erecap.models.masks import attention_mask
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule.schedule import PruneSchedule, spread_over_layers
from erecap.selectors.base import PreparedSelector, Selector


@dataclass(frozen=True)
class KeptTokens:
    """Survivors of one stage: original positions, int64 ``(batch, kept)``, rising; row ``b`` is valid up to ``counts[b]``."""

    after_layer: int
    positions: Tensor
    counts: tuple[int, ...]


@dataclass(frozen=True)
class PrefillResult:
    """What a prefill leaves behind.

    ``cache`` holds, in each layer, every token that reached it, so its lengths fall with depth. ``logits`` are those of each row's
    last position, float32 ``(batch, vocab)``. ``layer_tokens[row][layer]`` counts the tokens that entered the layer.
    ``next_positions[row]`` is the position of the next token: the UNPRUNED length of the row.
    """

    cache: DynamicCache
    logits: Tensor
    stages: tuple[KeptTokens, ...]
    layer_tokens: tuple[tuple[int, ...], ...]
    next_positions: tuple[int, ...]
    kv_bytes: int


@torch.inference_mode()
def prefill(
    model: PreTrainedModel,
    prompts: TokenizedPrompt | Sequence[TokenizedPrompt],
    schedule: PruneSchedule | None = None,
    selector: Selector | None = None,
) -> PrefillResult:
    """Run ``prompts`` through ``model``, dropping tokens by ``schedule`` where ``selector`` scores them lowest.

    Prompts of different lengths may share a batch and each gets what it gets alone. Every token keeps its original position.
    Nothing waits for the device, not even at the end, but for the rule ``threshold``, which waits once per stage. Raises
    ``ValueError`` for a schedule that does not fit the model, stages without a selector, a prompt beyond the model's positions, or
    a model the engine cannot run.
    """
    schedule = schedule or PruneSchedule.none()
    rows = [prompts] if isinstance(prompts, TokenizedPrompt) else list(prompts)
    parts = decoder_parts(model)
    _check(rows, schedule, selector, model)
    layout = lay_out(rows, schedule, model.device)
    cache, stream = DynamicCache(config=model.config), enter(parts, layout, parts.embed(layout.ids))
    stages = run_layers(parts, stream, cache, layout, schedule, selector)
    return PrefillResult(
        cache=cache,
        logits=_last_logits(parts, stream),
        stages=stages,
        layer_tokens=tokens_per_layer(layout, stages, len(parts.layers)),
        next_positions=layout.prompt_lengths,
        kv_bytes=cache_bytes(cache),
    )


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of the keys and values in ``cache``."""
    layers: list[Any] = cache.layers
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)


def _check(rows: list[TokenizedPrompt], schedule: PruneSchedule, selector: Selector | None, model: PreTrainedModel) -> None:
    if not rows:
        raise ValueError("a batch of 0 prompts has nothing to run: give at least one prompt")
    if schedule.stages and selector is None:
        raise ValueError(
            f"a schedule of {len(schedule.stages)} stages needs a selector to score tokens: pass one, or PruneSchedule.none()"
        )
    schedule.check_depth(model.config.num_hidden_layers)
    for row in rows:
        check_length(model.config, len(row))


def enter(parts: DecoderParts, layout: PrefillLayout, hidden: Tensor) -> Stream:
    """Embedded prompts, ``(batch, n, hidden_size)``. Rotary embeddings are computed here once; stages only pick from them."""
    positions = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2])
    return Stream(hidden, positions, layout.forced, parts.rotary(hidden, positions), layout.prompt_lengths, layout.lengths[0])


def run_layers(
    parts: DecoderParts,
    stream: Stream,
    cache: DynamicCache,
    layout: PrefillLayout,
    schedule: PruneSchedule,
    selector: Selector | None,
) -> tuple[KeptTokens, ...]:
    """Take ``stream`` through all layers into ``cache``, dropping tokens at the stages; what survived each."""
    stage_after = {stage.after_layer: index for index, stage in enumerate(schedule.stages)}
    if isinstance(selector, PreparedSelector) and any(drops(stream, layout, schedule, stage) for stage in stage_after.values()):
        selector.prepare(layout.ids, layout.prompt_lengths)
    kept, mask = [], attention_mask(parts.attention, None, stream.hidden)
    for number, layer in enumerate(parts.layers):
        stream.hidden = run_layer(layer, stream.hidden, mask, cache, stream.rope)
        if number in stage_after and selector is not None:
            _prune(stream, layout, schedule, stage_after[number], selector)
            mask = attention_mask(parts.attention, None, stream.hidden)
            kept.append(KeptTokens(number, stream.positions, stream.counts))
    return tuple(kept)


def run_layer(
    layer: torch.nn.Module, hidden: Tensor, mask: Tensor | None, cache: DynamicCache | None, rope: tuple[Tensor, Tensor]
) -> Tensor:
    """One decoder layer; ``mask`` as ``attention_mask`` made it.

    No position ids: rotary embeddings come ready, and flash attention takes positions with gaps for packed sequences.
    """
    return layer(hidden, mask, None, cache, position_embeddings=rope)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _prune(stream: Stream, layout: PrefillLayout, schedule: PruneSchedule, stage: int, selector: Selector) -> None:
    """Drop tokens from ``stream``. A stage at which no row loses any is skipped, scoring included where that is known before.

    Layers may lie on several devices (accelerate's ``device_map``); whatever stages need lies on the first, where prompts come in.
    """
    if not drops(stream, layout, schedule, stage):
        return
    stream.hidden = stream.hidden.to(stream.positions.device)
    scores = selector.score(stream.hidden, stream.positions, stage, stream.lengths)
    left = survivors(scores, stream, layout, schedule, stage)
    if left.counts != stream.counts:
        stream.keep(left)


def _last_logits(parts: DecoderParts, stream: Stream) -> Tensor:
    """Logits of each row's last position only: for a long prompt the others would cost as much as several layers."""
    if stream.even:
        last = stream.hidden[:, -1]
    else:
        device = stream.hidden.device
        last = stream.hidden[torch.arange(len(stream.hidden), device=device), stream.lengths.to(device) - 1]
    return parts.head(parts.norm(last)).float()  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def tokens_per_layer(layout: PrefillLayout, stages: Sequence[KeptTokens], num_layers: int) -> tuple[tuple[int, ...], ...]:
    """``[row][layer]``: how many tokens of the row enter the layer."""
    return tuple(
        spread_over_layers(length, {stage.after_layer: stage.counts[row] for stage in stages}, num_layers)
        for row, length in enumerate(layout.prompt_lengths)
    )
