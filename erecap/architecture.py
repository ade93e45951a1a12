"""The parts of a stock transformers decoder that the engine drives one by one, and what it cannot drive."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

SUPPORTED_MODEL_TYPES = ("qwen2",)
_SUPPORTED_ROPE = ("default", "linear", "yarn")


class UnsupportedModelError(ValueError):
    """A model that the engine would run wrongly, refused before any computation."""


@dataclass(frozen=True)
class DecoderParts:
    """Modules of a causal language model, in the order in which a token meets them."""

    embed: nn.Module
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    layers: tuple[nn.Module, ...]
    norm: nn.Module
    head: nn.Module


def check_config(config: PretrainedConfig) -> None:
    """Raise ``UnsupportedModelError`` for an architecture on which the engine is not tested (Qwen2 and Qwen2.5 are)."""
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise UnsupportedModelError(
            f"model type {config.model_type!r} is not supported, the engine runs {', '.join(SUPPORTED_MODEL_TYPES)}: "
            "use a Qwen2 or Qwen2.5 model, or the backend 'hf-generate', which prunes nothing"
        )
    sliding = [index for index, kind in enumerate(config.layer_types) if kind != "full_attention"]
    if sliding:
        raise UnsupportedModelError(
            f"layers {sliding} have sliding-window attention, and the engine needs full attention in every layer: "
            "set use_sliding_window=false in the model's config"
        )
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope not in _SUPPORTED_ROPE:
        raise UnsupportedModelError(
            f"rope type {rope!r} changes with the length of the context, the engine supports {', '.join(_SUPPORTED_ROPE)}: "
            "remove rope scaling from the model's config"
        )


def decoder_parts(model: PreTrainedModel) -> DecoderParts:
    """The parts of ``model``. Raises ``UnsupportedModelError`` where the engine cannot run it.

    The engine passes no mask and relies on the attention function to be causal for more than one query. `sdpa` is; `eager`
    without a mask is bidirectional, so it is refused.
    """
    check_config(model.config)
    attention = model.config._attn_implementation
    if attention != "sdpa":
        raise UnsupportedModelError(f"attention {attention!r} is not supported: load the model with attn_implementation='sdpa'")
    if model.training:
        raise UnsupportedModelError("the model is in training mode: call model.eval() first")
    parts: Any = model  # transformers' accessors are untyped
    decoder = parts.get_decoder()
    layers = tuple(decoder.layers[: model.config.num_hidden_layers])
    return DecoderParts(decoder.embed_tokens, decoder.rotary_emb, layers, decoder.norm, parts.get_output_embeddings())


class ContextLengthError(ValueError):
    """A prompt and its answer that do not fit into the model's positions."""


def check_length(config: PretrainedConfig, prompt_tokens: int, new_tokens: int = 0) -> None:
    """Raise ``ContextLengthError`` where a prompt and its answer do not fit into the model's positions."""
    if prompt_tokens + new_tokens > config.max_position_embeddings:
        raise ContextLengthError(
            f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones exceed the model's {config.max_position_embeddings} "
            "positions (max_position_embeddings): shorten the history, lower max_new_tokens, or use a model with a longer context"
        )
