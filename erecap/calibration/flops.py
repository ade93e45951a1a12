"""Counted work of a prefill, and the most that dropping tokens can gain.

Counts multiply-adds as two operations and leaves out what is below a percent at any size that matters: norms, rotary embedding,
softmax, the logits of the one last position, and the scoring of tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig


@dataclass(frozen=True)
class LayerCost:
    """FLOPs of one decoder layer: per token for its matrices, per (query, key) pair for its attention."""

    linear_per_token: int
    attention_per_pair: int


def layer_cost(config: PretrainedConfig) -> LayerCost:
    """Cost of one layer of a Llama-like decoder (grouped-query attention, gated MLP), read from its ``config``."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries = config.num_attention_heads * head_dim
    keys = config.num_key_value_heads * head_dim
    weights = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    return LayerCost(linear_per_token=2 * weights, attention_per_pair=4 * queries)


def causal_pairs(tokens: int) -> int:
    """(Query, key) pairs of causal attention within ``tokens`` tokens."""
    return tokens * (tokens + 1) // 2


def prefill_flops(config: PretrainedConfig, layer_tokens: Sequence[int]) -> tuple[int, int]:
    """FLOPs of (matrices, attention) of a prefill in which ``layer_tokens[l]`` tokens enter layer ``l``."""
    cost = layer_cost(config)
    linear = cost.linear_per_token * sum(layer_tokens)
    return linear, cost.attention_per_pair * sum(causal_pairs(tokens) for tokens in layer_tokens)


def flops_cost(config: PretrainedConfig) -> Callable[[Sequence[int]], float]:
    """The cost to give to ``PruneSchedule.for_budget`` for a budget in FLOPs of prefill."""
    return lambda layer_tokens: float(sum(prefill_flops(config, layer_tokens)))


def ceiling(config: PretrainedConfig, layer_tokens: Sequence[int], prompt_tokens: int | None = None) -> float:
    """The most that a prefill can gain from its dropped tokens: ``(lin + attn) / (lin * m1 + attn * m2)``.

    ``layer_tokens`` are the counts that really entered each layer; ``prompt_tokens`` the whole prompt, by default the first count.
    Raises ``ValueError`` unless there is one count per layer, all positive.
    """
    if len(layer_tokens) != config.num_hidden_layers or min(layer_tokens, default=0) < 1:
        raise ValueError(
            f"layer_tokens={list(layer_tokens)} must hold one positive count for each of the {config.num_hidden_layers} layers: "
            "pass PrefillResult.layer_tokens"
        )
    full = prefill_flops(config, [prompt_tokens or layer_tokens[0]] * len(layer_tokens))
    return sum(full) / sum(prefill_flops(config, layer_tokens))
