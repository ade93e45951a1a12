"""The memory of a prefill, computed from the model's config."""

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from erecap.calibration.flops import layer_cost


def config_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Compute the bytes of the weights of a model, without biases and norms (about a thousandth)."""
    tables = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    return int(config.num_hidden_layers * layer_cost(config).linear_per_token // 2 + tables) * dtype.itemsize


def prefill_bytes(config: PretrainedConfig, dtype: torch.dtype, layer_tokens: Sequence[int]) -> int:
    """Compute the peak memory of a prefill besides the weights: the largest sum of cache and activations over layers.

    Activations are three rows of the MLP's width and three of the model's width per token, as a gated MLP holds them at once. Each
    token also has its cosine and sine, and its id, position and number of forced stages, 8 bytes each.

    Parameters
    ----------
    config
        The model's config.
    dtype
        Dtype of the weights.
    layer_tokens
        Tokens that enter each layer.
    """
    size = dtype.itemsize
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv = 2 * config.num_key_value_heads * head_dim * size
    per_token = (3 * (config.intermediate_size + config.hidden_size) + 2 * head_dim) * size + 24
    return int(max(kv * sum(layer_tokens[: layer + 1]) + per_token * tokens for layer, tokens in enumerate(layer_tokens)))
