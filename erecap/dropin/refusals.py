"""Checks that refuse a call which a pruned model would answer wrongly, before anything is computed.

They read the arguments of a call only; ``erecap.dropin.pruned`` does the pruning.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from erecap.dropin.pruned_cache import PrunedLayer
from erecap.models.architecture import UnsupportedModelError

_RECORDED = ("output_hidden_states", "output_attentions")
_DRAFTED = "candidates are put into the first forward, where they would be pruned as a part of the prompt"
_MODES = {
    **dict.fromkeys(("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit"), _DRAFTED),
    "prefill_chunk_size": "the first chunk would be pruned as the whole prompt and the others not at all",
}


CONTINUOUS_BATCHING = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Methods of transformers' models that start continuous batching."""


def refuse_continuous_batching(*args: Any, **kwargs: Any) -> None:
    """Raise ``ValueError``; the methods of ``CONTINUOUS_BATCHING`` are replaced by this."""
    raise ValueError(
        "continuous batching packs prompts into a paged cache, whose layers cannot hold unequal lengths: call model.generate(...) "
        "inside erecap.pruned(...), or this method outside of it"
    )


def check_not_compiled(*modules: Any) -> None:
    """Raise ``UnsupportedModelError`` where one of ``modules`` is compiled as a whole."""
    for module in modules:
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if compiled or hasattr(getattr(module, "forward", None), "_torchdynamo_orig_callable"):
            raise UnsupportedModelError(
                "the model is compiled as a whole, so tokens cannot be dropped between its layers: compile them one by one "
                "(for layer in model.get_decoder().layers: layer.compile(dynamic=True)), and not the model; with "
                "torch._dynamo.config.recompile_limit at twice their number, since beyond 8 layers the others stay uncompiled"
            )


def check_generation(model: PreTrainedModel, generation_config: Any, asked: dict[str, Any]) -> None:
    """Refuse a mode of ``generate`` whose first forward is not the prompt alone.

    Parameters
    ----------
    model
        The model; its own generation config counts too.
    generation_config
        The config that ``generate`` was given, or ``None``.
    asked
        Keyword arguments that ``generate`` was given.

    Raises
    ------
    ValueError
        For such a mode; the message names it.
    """
    for name, reason in _MODES.items():
        places = (asked.get(name), getattr(generation_config, name, None), getattr(model.generation_config, name, None))
        given = next((value for value in places if value is not None), None)
        if given is not None:
            value = type(given).__name__ if isinstance(given, torch.nn.Module) else given
            raise ValueError(f"{name}={value} does not go with pruning, {reason}: generate without it")


def check_call(
    config: Any, inputs: tuple[Tensor | None, Tensor | None], cache: Any, use_cache: bool | None, more: dict[str, Any]
) -> None:
    """Refuse a forward that a pruned decoder cannot run.

    Parameters
    ----------
    config
        The model's config.
    inputs
        Token ids, int64 ``(batch, n)``, and embeddings, ``(batch, n, hidden_size)``, of which one must be given.
    cache
        The cache of the call.
    use_cache
        The argument ``use_cache`` of the call.
    more
        Other keyword arguments of the call.

    Raises
    ------
    ValueError
        For such a call; the message gives the reason.
    """
    if sum(given is not None for given in inputs) != 1:
        raise ValueError("a forward takes either input_ids or inputs_embeds: give exactly one of them")
    asked = [name for name in _RECORDED if more.get(name, getattr(config, name, None))]
    if asked:
        raise ValueError(f"{', '.join(asked)} cannot be returned by a pruned model: its layers see fewer tokens than the input has")
    if use_cache is False:
        raise ValueError(
            "use_cache=False runs the whole text as a new prompt at every token, which would be pruned anew each time: leave it "
            "out, so that tokens are decoded from the pruned cache"
        )
    if not isinstance(cache, DynamicCache) or any(type(layer) not in (DynamicLayer, PrunedLayer) for layer in cache.layers):
        raise ValueError(
            f"a {type(cache).__name__} cannot hold layers of unequal lengths: use transformers' DynamicCache (generate's default)"
        )


def check_mask(mask: Tensor | None, batch: int, width: int) -> None:
    """Raise ``ValueError`` for a mask of another shape than ``(batch, width)``: a column per token so far, also dropped ones."""
    if mask is not None and tuple(mask.shape) != (batch, width):
        raise ValueError(
            f"an attention mask of shape {tuple(mask.shape)} where one of (batch, tokens) = {(batch, width)} is needed: it has a "
            "column for every token so far, padding and dropped ones included"
        )


def check_positions(position_ids: Tensor | None, starts: Tensor, width: int) -> None:
    """Refuse a prompt that is not at positions 0, 1, 2, ...

    Parameters
    ----------
    position_ids
        Positions of the call, int64 ``(batch or 1, width)``, or ``None``.
    starts
        Column in which each row begins, int64 ``(batch,)``.
    width
        Columns of the prompt.

    Raises
    ------
    ValueError
        For other positions.
    """
    own = torch.arange(width, device=starts.device) - starts[:, None]
    if position_ids is not None and bool(((position_ids != own) & (own >= 0)).any()):
        raise ValueError(
            "position_ids of a prompt must count its tokens from 0, padding left out, as attention_mask.cumsum(-1) - 1 does: leave "
            "them out"
        )


def check_rows(pruned: int, given: int) -> None:
    """Raise ``ValueError`` where a cache of ``pruned`` rows gets ``given`` rows, unless ``pruned`` is 1, which may become many."""
    if pruned not in (1, given):
        raise ValueError(
            f"a cache of {pruned} pruned prompts goes on with {given} rows: repeat the prompts before they are pruned "
            "(num_return_sequences does), not their cache"
        )
