"""The parts of a stock transformers decoder that the engine runs one by one, and the models that it cannot run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from erecap.distributed.tensor_parallel import ranks_of, share_from_first
from erecap.models.device import execution_device
from erecap.models.masks import ATTENTION_KINDS

SUPPORTED_MODEL_TYPES = ("qwen2", "qwen3", "llama", "mistral")
_SUPPORTED_ROPE = ("default", "linear", "yarn", "llama3")
_FULL, _SLIDING = "full_attention", "sliding_attention"
_REASONS = {
    _SLIDING: "whose cache counts places and forgets old ones, so that dropped tokens would move the window",
    "linear_attention": "which folds all tokens into one state and keeps none that could be dropped later",
}
_OTHER_MODEL = (
    f"use a model of {', '.join(SUPPORTED_MODEL_TYPES)} with full attention in every layer, or the backend 'hf-generate', which "
    "prunes nothing"
)


class UnsupportedModelError(ValueError):
    """An error for a model that the engine cannot run correctly, raised before any computation."""


@dataclass(frozen=True)
class DecoderParts:
    """The modules of a causal language model, in the order in which a token meets them.

    Attributes
    ----------
    embed
        Token ids, int64 ``(batch, n)``, to hidden states ``(batch, n, hidden_size)``.
    rotary
        Positions, int64 ``(batch, n)``, to cosine and sine, each ``(batch, n, head_dim)``. A first tensor gives dtype and device.
    layers
        Decoder layers.
    norm
        Final norm.
    head
        Hidden states to logits, ``(..., vocab)``.
    attention
        Name of the attention function, one of ``ATTENTION_KINDS``.
    config
        The model's config, from which the layers read that name.
    ranks
        Number of processes that hold a part of each layer (tensor parallel); 1 for a whole model.
    agree
        Takes a tensor that every rank has computed and returns rank 0's, so that all ranks decide alike. Returns the tensor itself
        where there is one rank.
    """

    embed: nn.Module
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    layers: tuple[nn.Module, ...]
    norm: nn.Module
    head: nn.Module
    attention: str
    config: PretrainedConfig
    ranks: int
    agree: Callable[[Tensor], Tensor]

    @cached_property
    def entry(self) -> torch.device:
        """Device that takes the token ids."""
        return execution_device(self.embed)

    @cached_property
    def places(self) -> tuple[torch.device, ...]:
        """Device on which each layer computes."""
        return tuple(execution_device(layer) for layer in self.layers)


def check_config(config: PretrainedConfig) -> None:
    """Raise ``UnsupportedModelError`` for an architecture that the engine does not support."""
    _check_layer_types(config)
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise UnsupportedModelError(
            f"model type {config.model_type!r} is not supported, the engine runs the layers of a few families only: {_OTHER_MODEL}"
        )
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope not in _SUPPORTED_ROPE:
        raise UnsupportedModelError(
            f"rope type {rope!r} changes with the length of the context, the engine supports {', '.join(_SUPPORTED_ROPE)}: "
            "remove rope scaling from the model's config"
        )


def _check_layer_types(config: PretrainedConfig) -> None:
    """Refuse layers that do not attend to the whole context: sliding-window models such as Gemma 3, hybrid ones such as Qwen3.5."""
    kinds = layer_types(config)
    other = sorted({kind for kind in kinds if kind != _FULL})
    if not other:
        return
    remedy = _OTHER_MODEL
    if other == [_SLIDING] and config.model_type in SUPPORTED_MODEL_TYPES:
        remedy = f"turn it off in the model's config (use_sliding_window=false, or sliding_window=null), or {_OTHER_MODEL}"
    found = "; ".join(f"layers {[n for n, each in enumerate(kinds) if each == kind]} have {_named(kind)}" for kind in other)
    raise UnsupportedModelError(f"{found} (layer_types), and the engine needs full attention in every layer: {remedy}")


def layer_types(config: PretrainedConfig) -> list[str]:
    """Name the kind of attention of each layer, as ``layer_types`` of configs does. Mistral's has one number for all layers."""
    text: Any = config.get_text_config(decoder=True)  # of a model that sees images as well, the language model's
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        kinds = [_SLIDING if getattr(text, "sliding_window", None) else _FULL] * getattr(text, "num_hidden_layers", 0)
    return list(kinds)


def _named(kind: str) -> str:
    reason = _REASONS.get(kind)
    return kind if reason is None else f"{kind.replace('sliding_attention', 'sliding-window attention')}, {reason}"


def decoder_parts(model: PreTrainedModel) -> DecoderParts:
    """Return the parts of ``model``. Raise ``UnsupportedModelError`` where the engine cannot run it."""
    check_config(model.config)
    attention = model.config._attn_implementation
    if attention not in ATTENTION_KINDS:
        raise UnsupportedModelError(
            f"attention {attention!r} is not supported, the engine runs {', '.join(ATTENTION_KINDS)}: "
            "load the model with attn_implementation='sdpa'"
        )
    if model.training:
        raise UnsupportedModelError("the model is in training mode: call model.eval() first")
    parts: Any = model  # transformers' accessors are untyped
    decoder = parts.get_decoder()
    layers = tuple(decoder.layers)[: model.config.num_hidden_layers]  # a slice of the module list would be a new module
    head = parts.get_output_embeddings()
    return DecoderParts(
        embed=decoder.embed_tokens,
        rotary=decoder.rotary_emb,
        layers=layers,
        norm=decoder.norm,
        head=head,
        attention=attention,
        config=model.config,
        ranks=ranks_of(model),
        agree=partial(share_from_first, model),
    )


class ContextLengthError(ValueError):
    """An error for a prompt and an answer that together exceed the model's positions."""


def check_length(config: PretrainedConfig, prompt_tokens: int, new_tokens: int = 0) -> None:
    """Raise ``ContextLengthError`` where a prompt and its answer exceed the model's positions; both lengths in tokens."""
    if prompt_tokens + new_tokens > config.max_position_embeddings:
        raise ContextLengthError(
            f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones exceed the model's {config.max_position_embeddings} "
            "positions (max_position_embeddings): shorten the history, lower max_new_tokens, or use a model with a longer context"
        )
