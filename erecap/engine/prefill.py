"""Prefill with pruning: the layers of a stock model run one by one, and tokens are dropped between them.

The baseline is the same path with the empty schedule. ``erecap.engine.decode`` continues from the cache that a prefill leaves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from erecap.engine.layout import PrefillLayout, StageLayout, lay_out
from erecap.engine.rules import survivors
from erecap.engine.selector_protocol import PreparedSelector, Selector, check_selector
from erecap.engine.stream import Stream
from erecap.models.architecture import DecoderParts, check_length, decoder_parts
from erecap.models.attention_kernels import PreferredKernels
from erecap.models.kv_cache import cache_bytes, make_cache, trim
from erecap.models.masks import attention_mask
from erecap.models.row_sizes import RowSizes, row_sizes
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.schedule.counts import spread_over_layers


@dataclass(frozen=True)
class KeptTokens:
    """The survivors of one stage.

    Attributes
    ----------
    after_layer
        Layer after which the stage comes.
    positions
        Original positions, int64 ``(batch, kept)``, rising; only the first ``counts[b]`` of row ``b`` are valid.
    counts
        Number of survivors of each row.
    """

    after_layer: int
    positions: Tensor
    counts: tuple[int, ...]


@dataclass(frozen=True)
class PrefillResult:
    """The result of a prefill.

    Attributes
    ----------
    cache
        Keys and values. Each layer holds every token that reached it, so lengths fall with depth.
    logits
        Logits of each row's last position, float32 ``(batch, vocab)``.
    stages
        Survivors of each stage, in the order of layers.
    layer_tokens
        ``[row][layer]``: tokens that entered the layer.
    next_positions
        Position of each row's next token: the length of the row before pruning.
    kv_bytes
        Bytes of ``cache`` after the prefill; of a model that is divided among ranks, of all ranks together.
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
    sizes: RowSizes | None = None,
) -> PrefillResult:
    """Run prompts through a model, dropping the tokens that score lowest.

    Every token keeps its original position. Prompts of different lengths may share a batch, and each gets the result it gets alone.
    With the rules ``top_k`` and ``chunk_top_k`` the host does not wait for the device.

    Parameters
    ----------
    model
        A stock transformers model in evaluation mode.
    prompts
        One prompt, or a batch.
    schedule
        Where tokens are dropped and how many. Default: the empty schedule, which is the baseline.
    selector
        Scores the tokens at the stages; required by a schedule with stages.
    sizes
        Numbers of rows that the layers may run. Default: those that serve the model's device and dtype.

    Raises
    ------
    UnsupportedModelError
        For a model that the engine cannot run.
    ContextLengthError
        For a prompt beyond the model's positions.
    ValueError
        For an empty batch, stages without a selector, or a schedule that does not fit the model's depth.
    """
    schedule = schedule or PruneSchedule.none()
    rows = [prompts] if isinstance(prompts, TokenizedPrompt) else list(prompts)
    parts = decoder_parts(model)
    _check(rows, schedule, selector, model)
    layout = lay_out(rows, schedule, parts.entry, sizes or row_sizes(parts.entry, model.dtype))
    cache, stream = make_cache(model.config), enter(parts, layout, parts.embed(layout.ids))
    stages = run_layers(parts, stream, cache, layout, selector)
    return PrefillResult(
        cache=cache,
        logits=_last_logits(parts, stream),
        stages=stages,
        layer_tokens=tokens_per_layer(layout, stages, len(parts.layers)),
        next_positions=layout.prompt_lengths,
        kv_bytes=cache_bytes(cache) * parts.ranks,
    )


def _check(rows: list[TokenizedPrompt], schedule: PruneSchedule, selector: Selector | None, model: PreTrainedModel) -> None:
    if not rows:
        raise ValueError("a batch of 0 prompts has nothing to run: give at least one prompt")
    if schedule.stages and selector is None:
        raise ValueError(
            f"a schedule of {len(schedule.stages)} stages needs a selector to score tokens: pass one, or PruneSchedule.none()"
        )
    schedule.check_depth(model.config.num_hidden_layers)
    if selector is not None and schedule.stages:
        check_selector(selector, schedule)
    for row in rows:
        check_length(model.config, len(row))


def enter(parts: DecoderParts, layout: PrefillLayout, hidden: Tensor) -> Stream:
    """Make the stream that enters the first layer.

    Rotary embeddings are computed here once; stages select rows of them.

    Parameters
    ----------
    parts
        The model's modules.
    layout
        The batch.
    hidden
        Its embedded tokens, ``(batch, n, hidden_size)``.
    """
    positions = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2])
    return Stream(
        hidden, positions, layout.forced, parts.rotary(hidden, positions), layout.prompt_lengths, layout.lengths, layout.sizes
    )


def run_layers(
    parts: DecoderParts, stream: Stream, cache: DynamicCache, layout: PrefillLayout, selector: Selector | None
) -> tuple[KeptTokens, ...]:
    """Run a stream through all layers and drop tokens at the stages.

    Layers may compute on several devices (accelerate's ``device_map``). The stream moves with them, so a stage works where the
    layer before it does.

    Parameters
    ----------
    parts
        The model's modules.
    stream
        The batch as ``enter`` made it; changed in place.
    cache
        Gets the keys and values of every layer.
    layout
        The batch and its stages.
    selector
        Scores the tokens; without one no stage runs.

    Returns
    -------
    tuple of KeptTokens
        Survivors of each stage.
    """
    stages = {stage.after_layer: stage for stage in layout.stages} if selector is not None else {}
    if isinstance(selector, PreparedSelector) and any(stage.can_drop(stream.counts) for stage in stages.values()):
        selector.prepare(layout.ids, layout.prompt_lengths)
    kept, mask = [], attention_mask(parts.attention, None, stream.hidden)
    with PreferredKernels(stream.hidden.device) as kernels:
        for number, (layer, place) in enumerate(zip(parts.layers, parts.places, strict=True)):
            if stream.hidden.device != place:
                stream.move(place)
                mask = attention_mask(parts.attention, None, stream.hidden)
            kernels.prefer_for(stream.hidden.shape[1])
            stream.hidden = run_layer(layer, stream.hidden, mask, cache, stream.rope)
            trim(cache, number, max(stream.counts))
            if number in stages and selector is not None:
                _prune(stream, stages[number], selector, parts.agree)
                mask = attention_mask(parts.attention, None, stream.hidden)
                kept.append(KeptTokens(number, stream.positions[:, : max(stream.counts)], stream.counts))
    return tuple(kept)


def run_layer(
    layer: torch.nn.Module, hidden: Tensor, mask: Tensor | None, cache: DynamicCache | None, rope: tuple[Tensor, Tensor]
) -> Tensor:
    """Run one decoder layer.

    The layer gets no position ids: ``rope`` replaces them, and flash attention takes ids with gaps for packed sequences.

    Parameters
    ----------
    layer
        The layer.
    hidden
        Residual stream, ``(batch, n, hidden_size)``.
    mask
        Mask made by ``erecap.models.masks.attention_mask``, or ``None``.
    cache
        Gets the layer's keys and values; ``None`` to keep none.
    rope
        Cosine and sine of the tokens' positions, each ``(batch or 1, n, head_dim)``.

    Returns
    -------
    Tensor
        Residual stream that leaves the layer, ``(batch, n, hidden_size)``.
    """
    return layer(hidden, mask, None, cache, position_embeddings=rope)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _prune(stream: Stream, stage: StageLayout, selector: Selector, agree: Callable[[Tensor], Tensor]) -> None:
    """Drop tokens from ``stream``. A stage at which no row can lose a token is skipped, scoring included.

    The ranks of a divided model select by the scores of rank 0 (``DecoderParts.agree``), so that all keep the same tokens.
    """
    if not stage.can_drop(stream.counts):
        return
    scores = agree(selector.score(stream.hidden, stream.positions, stage.index, stream.lengths))
    left = survivors(scores, stream, stage.on(stream.hidden.device))
    if left.counts != stream.counts:
        stream.keep(left)


def _last_logits(parts: DecoderParts, stream: Stream) -> Tensor:
    """Compute the logits of each row's last position only; logits of a whole long prompt cost as much as several layers."""
    if stream.full:
        last = stream.hidden[:, -1]
    else:
        device = stream.hidden.device
        last = stream.hidden[torch.arange(len(stream.hidden), device=device), stream.lengths.to(device) - 1]
    return parts.head(parts.norm(last)).float()  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def tokens_per_layer(layout: PrefillLayout, stages: Sequence[KeptTokens], num_layers: int) -> tuple[tuple[int, ...], ...]:
    """Count the tokens of each row that enter each layer: ``[row][layer]``."""
    return tuple(
        spread_over_layers(length, {stage.after_layer: stage.counts[row] for stage in stages}, num_layers)
        for row, length in enumerate(layout.prompt_lengths)
    )
