"""FLOPs of a prefill, and the largest speedup that dropping tokens can give.

A multiply-add counts as two operations. Norms, rotary embedding, softmax, the logits of the last position and the scoring of tokens
are left out: together they are below a percent at any size that matters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig


@dataclass(frozen=True)
class LayerCost:
    """The FLOPs of one decoder layer.

    Attributes
    ----------
    linear_per_token
        FLOPs of its matrices per token.
    attention_per_pair
        FLOPs of its attention per (query, key) pair.
    """

    linear_per_token: int
    attention_per_pair: int


def layer_cost(config: PretrainedConfig) -> LayerCost:
    """Read the cost of one layer of a Llama-like decoder (grouped-query attention, gated MLP) from its ``config``."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries = config.num_attention_heads * head_dim
    keys = config.num_key_value_heads * head_dim
    weights = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    return LayerCost(linear_per_token=2 * weights, attention_per_pair=4 * queries)


def causal_pairs(tokens: int) -> int:
    """Count the (query, key) pairs of causal attention within ``tokens`` tokens."""
    return tokens * (tokens + 1) // 2


def prefill_flops(config: PretrainedConfig, layer_tokens: Sequence[int]) -> tuple[int, int]:
    """Count the FLOPs of (matrices, attention) of a prefill in which ``layer_tokens[l]`` tokens enter layer ``l``."""
    cost = layer_cost(config)
    linear = cost.linear_per_token * sum(layer_tokens)
    return linear, cost.attention_per_pair * sum(causal_pairs(tokens) for tokens in layer_tokens)


def flops_cost(config: PretrainedConfig) -> Callable[[Sequence[int]], float]:
    """Make a cost function in FLOPs of prefill, for ``PruneSchedule.for_budget``."""
    return lambda layer_tokens: float(sum(prefill_flops(config, layer_tokens)))


def ceiling(config: PretrainedConfig, layer_tokens: Sequence[int], prompt_tokens: int | None = None) -> float:
    """Compute the largest speedup that the dropped tokens can give a prefill: FLOPs of the full prefill / FLOPs of the pruned one.

    Parameters
    ----------
    config
        The model's config.
    layer_tokens
        Tokens that entered each layer of the pruned prefill.
    prompt_tokens
        Tokens of the whole prompt. Default: those that entered the first layer.

    Raises
    ------
    ValueError
        Unless there is one positive count per layer.
    """
    if len(layer_tokens) != config.num_hidden_layers or min(layer_tokens, default=0) < 1:
        raise ValueError(
            f"layer_tokens={list(layer_tokens)} must hold one positive count for each of the {config.num_hidden_layers} layers: "
            "pass PrefillResult.layer_tokens"
        )
    full = prefill_flops(config, [prompt_tokens or layer_tokens[0]] * len(layer_tokens))
    return sum(full) / sum(prefill_flops(config, layer_tokens))
