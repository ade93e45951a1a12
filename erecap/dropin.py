"""Pruning for stock transformers models: ``with pruned(model, pruner, schedule) as stats: model.generate(...)``.

While the context is open the model's decoder runs by the engine: a forward that begins a cache prunes, later ones go on from the
pruned cache. All that sits on top of the decoder (`generate`, beam search, streamers, pipelines, adapters) stays stock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from erecap.architecture import UnsupportedModelError, check_config, check_length, decoder_parts
from erecap.identity import identify
from erecap.layout import PrefillLayout, lay_out
from erecap.masks import attention_mask, causal
from erecap.prefilling import KeptTokens, cache_bytes, enter, run_layer, run_layers, tokens_per_layer
from erecap.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.selectors import LearnedSelector, PreparedSelector, Selector
from erecap.tokenization import TokenizedPrompt

_CACHE_FIELDS = ("cache", "past_key_values")  # transformers renames the one to the other
_REFUSED = ("output_hidden_states", "output_attentions")


@dataclass(frozen=True)
class PrunedPrefill:
    """One pruned prefill: ``kept[stage][row]`` are the columns of the input that survive the stage, int64, rising;
    ``layer_tokens[row][layer]`` counts the tokens that entered the layer."""

    kept: tuple[tuple[Tensor, ...], ...]
    layer_tokens: tuple[tuple[int, ...], ...]
    kv_bytes: int


@dataclass
class PruneStats:
    """What happened inside the context, one entry per prefill, oldest first."""

    prefills: list[PrunedPrefill] = field(default_factory=list)


@dataclass(frozen=True)
class _Past:
    """What later forwards need to know of a pruned cache: its rows' lengths by layer, and how wide the prompt was."""

    layer_tokens: tuple[tuple[int, ...], ...]
    prompt_width: int


class _PrunedDecoder:
    """Takes the place of a decoder's ``forward``."""

    def __init__(self, model: PreTrainedModel, schedule: PruneSchedule, selector: Selector | None, stats: PruneStats) -> None:
        self.parts, self.config = decoder_parts(model), model.config
        self.schedule, self.selector, self.stats = schedule, selector, stats
        self.pasts: WeakKeyDictionary[DynamicCache, _Past] = WeakKeyDictionary()

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As a stock decoder's forward. Hidden states of tokens that were dropped are NaN, those of padding 0."""
        cache = kwargs.pop("past_key_values", None) if cache is None else cache
        cache = DynamicCache() if cache is None else cache
        _check_call(attention_mask, cache, kwargs)
        hidden = self.parts.embed(input_ids) if inputs_embeds is None else inputs_embeds
        if cache.get_seq_length() == 0:
            hidden = self.prefill(hidden, input_ids, attention_mask, cache)
        else:
            hidden = self.extend(hidden, attention_mask, position_ids, cache)
        name = next(name for name in _CACHE_FIELDS if name in BaseModelOutputWithPast.__dataclass_fields__)
        return BaseModelOutputWithPast(last_hidden_state=hidden, **{name: cache if use_cache is not False else None})

    def prefill(self, hidden: Tensor, ids: Tensor | None, mask: Tensor | None, cache: DynamicCache) -> Tensor:
        """Prune; the final hidden states, ``(batch, n, hidden_size)``, in the columns of the input."""
        batch, width = hidden.shape[:2]
        lengths = [width] * batch if mask is None else [int(n) for n in mask.sum(-1).tolist()]
        check_length(self.config, max(lengths))
        layout = _layout(lengths, width, mask, self.schedule, hidden.device)
        starts = torch.tensor([width - length for length in lengths], device=hidden.device)
        if isinstance(self.selector, PreparedSelector):
            layout = replace(layout, ids=_prompt_ids(ids, starts, max(lengths), self.selector))
        stream = enter(self.parts, layout, _shift(hidden, starts, max(lengths)))
        kept = run_layers(self.parts, stream, cache, layout, self.schedule, self.selector)
        counts = tokens_per_layer(layout, kept, len(self.parts.layers))
        self.pasts[cache] = _Past(counts, width)
        self.stats.prefills.append(PrunedPrefill(_columns(kept, starts), counts, cache_bytes(cache)))
        return _spread(self.parts.norm(stream.hidden), stream.positions, counts, starts, width)

    def extend(self, hidden: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: DynamicCache) -> Tensor:
        """Run what is new against the pruned cache, unpruned."""
        past, new = self._past(cache), hidden.shape[1]
        if position_ids is None:
            position_ids = torch.arange(new, device=hidden.device)[None] + cache.get_seq_length()
        rope = self.parts.rotary(hidden, position_ids.expand(hidden.shape[:2]))
        made: dict[tuple[int, ...], Tensor | None] = {}
        for number, (layer, lengths) in enumerate(zip(self.parts.layers, zip(*past.layer_tokens, strict=True), strict=True)):
            if lengths not in made:
                visible = _visible(lengths, cache.get_seq_length(number), mask, past.prompt_width, hidden)
                made[lengths] = attention_mask(self.parts.attention, visible, hidden)
            hidden = run_layer(layer, hidden, made[lengths], cache, rope)
        return self.parts.norm(hidden)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def _past(self, cache: DynamicCache) -> _Past:
        """What was pruned into ``cache``. Every layer must have gained the same number of tokens since."""
        past = self.pasts.get(cache)
        if past is None:
            raise ValueError(
                "the cache was filled outside of this erecap.pruned(...), or copied: begin with an empty cache inside the context"
            )
        widths = (max(lengths) for lengths in zip(*past.layer_tokens, strict=True))
        appended = {cache.get_seq_length(number) - width for number, width in enumerate(widths)}
        if len(appended) > 1 or min(appended) < 0:
            raise ValueError(
                "the cache was cropped into its pruned prompt, as assisted generation and prompt lookup do, which put candidates "
                "into the first forward: generate without them"
            )
        return past


@contextmanager
def pruned(
    model: Any, pruner: TokenPruner | str | None, schedule: PruneSchedule, selector: Selector | None = None
) -> Iterator[PruneStats]:
    """Let ``model``, a stock (or PEFT-wrapped) causal language model, prune its prompts while the context is open.

    ``pruner`` is a pruner or its directory; ``selector`` scores instead of it. Prompts are padded on the left, if at all; each
    is one chunk, since ids do not say where a message ends. Raises, before any computation, ``UnsupportedModelError`` for a model
    that cannot be pruned and ``ValueError`` for a schedule, pruner or cache that does not fit.
    """
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedModelError(
            "the model is compiled as a whole, so that nothing can come between its layers: compile them one by one "
            "(for layer in model.get_decoder().layers: layer.compile(dynamic=True)), and not the model"
        )
    stock: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    check_config(stock.config)
    schedule.check_depth(stock.config.num_hidden_layers)
    scorer = selector if selector is not None or not schedule.stages else _learned(pruner, stock, schedule)
    decoder: Any = stock.get_decoder()  # type: ignore[no-untyped-call]
    own = decoder.__dict__.get("forward")
    if isinstance(own, _PrunedDecoder):
        raise ValueError("the model is being pruned already: leave the first erecap.pruned(...) before the next")
    stats = PruneStats()
    decoder.forward = _PrunedDecoder(stock, schedule, scorer, stats)
    try:
        yield stats
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own


def _learned(pruner: TokenPruner | str | None, model: PreTrainedModel, schedule: PruneSchedule) -> Selector:
    if pruner is None:
        raise ValueError("nothing scores tokens: give a pruner, its directory, or selector=...")
    made = TokenPruner.from_pretrained(pruner) if isinstance(pruner, str) else pruner
    made.check_model(identify(model))
    return LearnedSelector(made, schedule)


def _check_call(mask: Tensor | None, cache: Any, kwargs: dict[str, Any]) -> None:
    asked = [name for name in _REFUSED if kwargs.get(name)]
    if asked:
        raise ValueError(f"{', '.join(asked)} cannot be had from a pruned model: layers see fewer tokens than the input has")
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        raise ValueError(
            f"a {type(cache).__name__} cannot hold layers of unequal lengths: use transformers' DynamicCache (generate's default)"
        )
    if mask is not None and mask.ndim != 2:
        raise ValueError(f"an attention mask of shape {tuple(mask.shape)}: give one of (batch, tokens)")


def _layout(lengths: list[int], width: int, mask: Tensor | None, schedule: PruneSchedule, device: torch.device) -> PrefillLayout:
    if mask is not None and not bool((mask.sum(-1) == mask.long().flip(-1).cumprod(-1).sum(-1)).all()):
        raise ValueError("the attention mask has padding behind or within a prompt: pad on the left (padding_side='left')")
    if min(lengths) < 1:
        raise ValueError("a row of the batch has no token: leave it out")
    return lay_out([TokenizedPrompt.from_ids(np.zeros(length, np.int64)) for length in lengths], schedule, device)


def _shift(hidden: Tensor, starts: Tensor, longest: int) -> Tensor:
    """From padding on the left to padding on the right, which causal layers need no mask for."""
    if hidden.shape[1] == longest and bool((starts == 0).all()):
        return hidden
    columns = (torch.arange(longest, device=hidden.device) + starts[:, None]).clamp(max=hidden.shape[1] - 1)
    return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[2]))


def _prompt_ids(ids: Tensor | None, starts: Tensor, longest: int, selector: Selector) -> Tensor:
    """Prompts padded on the right, as ``_shift`` pads. Raises ``ValueError`` for prompts that came without their ids."""
    if ids is None:
        raise ValueError(
            f"a {type(selector).__name__} reads the prompts' token ids and the model was given inputs_embeds: give input_ids, or "
            "use another selector"
        )
    return _shift(ids.to(starts.device)[..., None], starts, longest)[..., 0]


def _columns(kept: tuple[KeptTokens, ...], starts: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    return tuple(
        tuple(row[:count] + start for row, count, start in zip(stage.positions, stage.counts, starts, strict=True))
        for stage in kept
    )


def _spread(hidden: Tensor, positions: Tensor, counts: tuple[tuple[int, ...], ...], starts: Tensor, width: int) -> Tensor:
    """Survivors' states back in the input's columns."""
    spread = hidden.new_full((hidden.shape[0], width, hidden.shape[2]), torch.nan)
    spread.masked_fill_((torch.arange(width, device=hidden.device) < starts[:, None])[..., None], 0.0)
    for row, (states, places, tokens) in enumerate(zip(hidden, positions, counts, strict=True)):
        spread[row, places[: tokens[-1]] + starts[row]] = states[: tokens[-1]]
    return spread


def _visible(lengths: tuple[int, ...], cached: int, mask: Tensor | None, prompt_width: int, hidden: Tensor) -> Tensor | None:
    """What new tokens may look at in one layer: a row's own prompt, what was appended and is not padding, and no look ahead."""
    new, width = hidden.shape[1], max(lengths)
    if new == 1 and len(set(lengths)) == 1:
        return None
    keys = torch.arange(cached + new, device=hidden.device)
    own = (keys < torch.tensor(lengths, device=hidden.device)[:, None]) | (keys >= width)
    if mask is not None and mask.shape[1] == prompt_width + cached - width + new:
        own[:, width:] &= mask[:, prompt_width:].bool()
    return own[:, None, None] & causal(new, cached + new, hidden.device)
