"""Pruning for stock transformers models: ``with pruned(model, pruner, schedule) as stats: model.generate(...)``.

While the context is open, the engine runs the model's decoder. A forward with an empty cache prunes its prompt; later forwards
continue from the pruned cache. The code above the decoder (`generate`, beam search, streamers, pipelines, adapters) is unchanged.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from erecap.dropin.protection import Flags, rows_of_flags
from erecap.dropin.pruned_cache import PrunedLayer, pruned_layers, remember, take_over
from erecap.dropin.refusals import (
    CONTINUOUS_BATCHING,
    check_call,
    check_generation,
    check_mask,
    check_not_compiled,
    check_positions,
    check_rows,
    refuse_continuous_batching,
)
from erecap.engine.layout import PrefillLayout, lay_out
from erecap.engine.prefill import KeptTokens, enter, run_layer, run_layers, tokens_per_layer
from erecap.engine.selector_protocol import PreparedSelector, Selector, check_selector
from erecap.models.architecture import check_config, check_length, decoder_parts
from erecap.models.grouped_attention import heads_grouped
from erecap.models.identity import identify
from erecap.models.kv_cache import CACHE_FIELD, cache_bytes
from erecap.models.loading import ending_tokens
from erecap.models.masks import attention_mask, causal
from erecap.models.pruner import TokenPruner, place_pruner
from erecap.models.row_sizes import row_sizes
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.selectors import SelectorContext, make_selector


@dataclass(frozen=True)
class PrunedPrefill:
    """One pruned prefill.

    Attributes
    ----------
    kept
        ``[stage][row]``: columns of the input whose tokens survive the stage, int64 ``(kept,)``, rising.
    layer_tokens
        ``[row][layer]``: tokens that entered the layer.
    kv_bytes
        Bytes of keys and values after the prefill; of a model that is divided among ranks, of all ranks together.
    """

    kept: tuple[tuple[Tensor, ...], ...]
    layer_tokens: tuple[tuple[int, ...], ...]
    kv_bytes: int


@dataclass
class PruneStats:
    """The prefills that were pruned inside the context.

    Attributes
    ----------
    prefills
        One entry per prefill, oldest first.
    """

    prefills: list[PrunedPrefill] = field(default_factory=list)


class _PrunedDecoder:
    """A replacement for a decoder's ``forward``."""

    def __init__(
        self,
        model: PreTrainedModel,
        schedule: PruneSchedule,
        selector: Selector | None,
        protected: Flags | None,
        stats: PruneStats,
    ) -> None:
        self.model, self.parts = model, decoder_parts(model)
        self.schedule, self.selector, self.protected, self.stats = schedule, selector, protected, stats

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a graph break where a caller compiles around it
    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Run with the signature of a stock decoder. Hidden states of dropped tokens are NaN, those of padding are 0."""
        cache = kwargs.pop("past_key_values", None) if cache is None else cache
        cache = DynamicCache() if cache is None else cache
        check_call(self.model.config, (input_ids, inputs_embeds), cache, use_cache, kwargs)
        self.parts = decoder_parts(self.model)  # read again, since its attention function or its mode may have changed
        hidden = self.parts.embed(input_ids) if inputs_embeds is None else inputs_embeds
        if cache.get_seq_length() == 0:
            hidden = self.prefill(hidden, input_ids, attention_mask, position_ids, cache)
        else:
            hidden = self.extend(hidden, attention_mask, position_ids, cache)
        output = BaseModelOutputWithPast(last_hidden_state=hidden, **{CACHE_FIELD: cache})
        as_tuple = kwargs.get("return_dict", self.model.config.return_dict) is False
        return output.to_tuple() if as_tuple else output

    def prefill(
        self, hidden: Tensor, ids: Tensor | None, mask: Tensor | None, position_ids: Tensor | None, cache: DynamicCache
    ) -> Tensor:
        """Run and prune prompts, ``(batch, n, hidden_size)``; return final hidden states of the same shape and columns."""
        batch, width = hidden.shape[:2]
        check_mask(mask, batch, width)
        lengths = [width] * batch if mask is None else [int(n) for n in mask.sum(-1).tolist()]
        check_length(self.model.config, max(lengths))
        layout = _layout(self._prompts(lengths, width), mask, self.schedule, hidden)
        starts = torch.tensor([width - length for length in lengths], device=hidden.device)
        check_positions(position_ids, starts, width)
        if isinstance(self.selector, PreparedSelector):
            layout = replace(layout, ids=_prompt_ids(ids, starts, layout.ids.shape[1], self.selector))
        take_over(cache, len(self.parts.layers))
        stream = enter(self.parts, layout, _shift(hidden, starts, layout.ids.shape[1]))
        kept = run_layers(self.parts, stream, cache, layout, self.selector)
        counts = tokens_per_layer(layout, kept, len(self.parts.layers))
        remember(cache, counts, starts, width)
        self.stats.prefills.append(PrunedPrefill(_columns(kept, starts), counts, cache_bytes(cache) * self.parts.ranks))
        return _spread(self.parts.norm(stream.hidden), stream.positions, counts, starts, width)

    def _prompts(self, lengths: list[int], width: int) -> list[TokenizedPrompt]:
        """Make prompts with the protected tokens of each row. Their ids are not read."""
        if min(lengths) < 1:
            raise ValueError("a row of the batch has no token: leave it out")
        flags = [None] * len(lengths) if self.protected is None else rows_of_flags(self.protected, lengths, width)
        return [TokenizedPrompt.from_ids(np.zeros(length, np.int64), own) for length, own in zip(lengths, flags, strict=True)]

    def extend(self, hidden: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: DynamicCache) -> Tensor:
        """Run new tokens on the pruned cache, without pruning; return final hidden states, ``(batch, new, hidden_size)``."""
        past, new = pruned_layers(cache), hidden.shape[1]
        check_rows(len(past[0].starts), len(hidden))
        appended = cache.get_seq_length() - past[0].columns
        behind = _behind(mask, past[0].prompt_width, appended + new, hidden)
        if position_ids is None:
            first = past[0].prompt_width - past[0].starts.to(hidden.device) + appended
            position_ids = first[:, None] + torch.arange(new, device=hidden.device)
        rope = self.parts.rotary(hidden, position_ids.expand(hidden.shape[:2]))
        made: dict[tuple[int, ...], Tensor | None] = {}  # layers between two stages hold the same tokens and share a mask
        with heads_grouped(self.parts.config, self.parts.attention, new, hidden.device):
            for layer, held in zip(self.parts.layers, past, strict=True):
                held_tokens = (held.columns, *held.tokens)
                if held_tokens not in made:
                    visible = _visible(held, behind, hidden, self.parts.attention)
                    made[held_tokens] = attention_mask(self.parts.attention, visible, hidden)
                hidden = run_layer(layer, hidden, made[held_tokens], cache, rope)
        return self.parts.norm(hidden)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


@contextmanager
def pruned(
    model: Any,
    pruner: TokenPruner | Path | str | None,
    schedule: PruneSchedule,
    selector: Selector | str | None = None,
    protected: Flags | None = None,
) -> Iterator[PruneStats]:
    """Let a model prune its prompts while the context is open.

    Pad prompts on the left. Each prompt is one chunk, since token ids do not tell where a message ends. Logits of dropped tokens
    are NaN, and so is a loss of ``labels`` on them. The model is restored on exit, also after an exception.

    Parameters
    ----------
    model
        A stock causal language model of transformers, or a PEFT model around one.
    pruner
        A pruner or its directory; ``None`` where ``selector`` needs none.
    schedule
        Where tokens are dropped and how many.
    selector
        Scores the tokens instead of the pruner: a selector or a name of ``erecap.SELECTORS``, such as ``"attention"``.
    protected
        Tokens that no stage may drop, bool ``(batch, n)`` in the columns of ``input_ids``, or ``(n,)`` for one prompt:
        ``erecap.protect_spans`` and ``erecap.protect_roles`` make them. They hold for every prompt of the context.

    Yields
    ------
    PruneStats
        Filled as prompts are pruned.

    Raises
    ------
    UnsupportedModelError
        For a model that cannot be pruned. This and the other errors come before any computation.
    PrunerMismatchError
        For the pruner of another model.
    ValueError
        For a schedule, cache, input or mode of ``generate`` that pruning does not support, and flags of another shape.
    """
    check_not_compiled(model)
    stock: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    check_config(stock.config)
    decoder: Any = stock.get_decoder()  # type: ignore[no-untyped-call]
    check_not_compiled(stock, decoder, getattr(stock, stock.base_model_prefix, None))
    schedule.check_depth(stock.config.num_hidden_layers)
    scorer = _scorer(selector, pruner, stock, schedule) if schedule.stages else None
    if scorer is not None:
        check_selector(scorer, schedule)
    if isinstance(decoder.__dict__.get("forward"), _PrunedDecoder):
        raise ValueError("the model is being pruned already: leave the first erecap.pruned(...) before the next")
    stats = PruneStats()
    with ExitStack() as replaced:
        replaced.enter_context(_replaced(decoder, "forward", _PrunedDecoder(stock, schedule, scorer, protected, stats)))
        if stock.can_generate():
            replaced.enter_context(_replaced(stock, "generate", _checked_generate(stock)))
            for name in CONTINUOUS_BATCHING:
                replaced.enter_context(_replaced(stock, name, refuse_continuous_batching))
        yield stats


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """Set attribute ``name`` of ``module`` to ``value``; restore the old value, such as a hook, on exit."""
    own = module.__dict__.get(name)
    setattr(module, name, value)
    try:
        yield
    finally:
        delattr(module, name)
        if own is not None:
            setattr(module, name, own)


def _checked_generate(model: Any) -> Callable[..., Any]:
    stock = model.generate

    def generate(inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        check_generation(model, generation_config, kwargs)
        return stock(inputs, generation_config, *args, **kwargs)

    return generate


def _scorer(
    selector: Selector | str | None, pruner: TokenPruner | Path | str | None, model: PreTrainedModel, schedule: PruneSchedule
) -> Selector:
    if selector is not None and not isinstance(selector, str):
        return selector
    if selector is None and pruner is None:
        raise ValueError('nothing scores tokens: give a pruner, its directory, or a selector that needs none, such as "attention"')
    made = None if pruner is None else _placed(pruner, model)
    return make_selector(selector or "learned", SelectorContext(schedule, made, model=model, eos_ids=ending_tokens(model)))


def _placed(pruner: TokenPruner | Path | str, model: PreTrainedModel) -> TokenPruner:
    made = pruner if isinstance(pruner, TokenPruner) else TokenPruner.from_pretrained(pruner)
    made.check_model(identify(model))
    return place_pruner(made, model)


def _layout(prompts: list[TokenizedPrompt], mask: Tensor | None, schedule: PruneSchedule, hidden: Tensor) -> PrefillLayout:
    if mask is not None and not bool((mask.sum(-1) == mask.long().flip(-1).cumprod(-1).sum(-1)).all()):
        raise ValueError("the attention mask has padding behind or within a prompt: pad on the left (padding_side='left')")
    return lay_out(prompts, schedule, hidden.device, row_sizes(hidden.device, hidden.dtype))


def _shift(hidden: Tensor, starts: Tensor, width: int) -> Tensor:
    """Move padding from the left to the right, ``(batch, n, hidden)`` to ``(batch, width, hidden)``."""
    if hidden.shape[1] == width and bool((starts == 0).all()):
        return hidden
    columns = (torch.arange(width, device=hidden.device) + starts[:, None]).clamp(max=hidden.shape[1] - 1)
    return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[2]))


def _prompt_ids(ids: Tensor | None, starts: Tensor, width: int, selector: Selector) -> Tensor:
    """Return token ids padded on the right, as ``_shift`` does. Raise ``ValueError`` where ``ids`` is ``None``."""
    if ids is None:
        raise ValueError(
            f"a {type(selector).__name__} reads the prompts' token ids and the model was given inputs_embeds: give input_ids, or "
            "use another selector"
        )
    return _shift(ids.to(starts.device)[..., None], starts, width)[..., 0]


def _columns(kept: tuple[KeptTokens, ...], starts: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    return tuple(
        tuple(row[:count] + start.to(row.device) for row, count, start in zip(stage.positions, stage.counts, starts, strict=True))
        for stage in kept
    )


def _spread(hidden: Tensor, positions: Tensor, counts: tuple[tuple[int, ...], ...], starts: Tensor, width: int) -> Tensor:
    """Write the survivors' hidden states to their columns of the input."""
    positions, starts = positions.to(hidden.device), starts.to(hidden.device)
    spread = hidden.new_full((hidden.shape[0], width, hidden.shape[2]), torch.nan)
    spread.masked_fill_((torch.arange(width, device=hidden.device) < starts[:, None])[..., None], 0.0)
    for row, (states, places, tokens) in enumerate(zip(hidden, positions, counts, strict=True)):
        spread[row, places[: tokens[-1]] + starts[row]] = states[: tokens[-1]]
    return spread


def _behind(mask: Tensor | None, prompt_width: int, appended: int, hidden: Tensor) -> Tensor | None:
    """Mark the tokens after the prompt that are not padding, bool ``(batch, tokens)``; ``None`` where there is no padding."""
    check_mask(mask, hidden.shape[0], prompt_width + appended)
    if mask is None or bool(mask[:, prompt_width:].all()):
        return None
    return mask[:, prompt_width:].bool()


def _visible(held: PrunedLayer, behind: Tensor | None, hidden: Tensor, kind: str) -> Tensor | None:
    """Mark the keys of one layer that new tokens may attend to: their row's prompt, and earlier new tokens without padding."""
    new, device = hidden.shape[1], hidden.device
    even = set(held.tokens) == {held.columns}
    if even and behind is None and (new == 1 or kind.startswith("flash")):
        return None  # flash attention lets the last new token see all keys, and each one before it one key less
    total = held.get_seq_length() + new
    keys = torch.arange(total, device=device)
    own = (keys < torch.tensor(held.tokens, device=device)[:, None]) | (keys >= held.columns)
    if behind is not None:
        own = own & torch.nn.functional.pad(behind.to(device), (held.columns, 0), value=True)
    return own[:, None, None] & causal(new, total, device)
