"""FLOPs of a prefill: counted by torch while the operations run, and computed from the config."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from erecap.calibration.flops import causal_pairs, prefill_flops

_ATTENTION_OPS = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)


def count_flops(call: Callable[[], object]) -> int:
    """Run ``call`` under torch's ``FlopCounterMode`` and return the FLOPs that it counts. A multiply-add counts as two.

    Attention with as many queries as keys counts as causal, as it is in every prefill here. Torch's own formula counts all (query,
    key) pairs, and some releases refuse grouped heads.
    """
    ops = [getattr(torch.ops.aten, name) for name in _ATTENTION_OPS if hasattr(torch.ops.aten, name)]
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(ops, _causal_attention_flops))
    with counter:
        call()
    return counter.get_total_flops()


def _causal_attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    batch, heads, queries, head_dim = query
    pairs = causal_pairs(queries) if queries == key[2] else queries * key[2]
    return int(2 * batch * heads * pairs * (head_dim + value[3]))


def analytic_flops(config: PretrainedConfig, layer_tokens: Sequence[int], scored_tokens: int) -> int:
    """Compute the FLOPs of a prefill from the config: matrices, causal attention, scorers and the logits of one position.

    Parameters
    ----------
    layer_tokens
        Tokens that enter each layer.
    scored_tokens
        Tokens that a stage scores, summed over stages.
    """
    hidden = config.hidden_size
    scorer = 2 * (hidden + 1) * (hidden // 4)
    return int(sum(prefill_flops(config, layer_tokens)) + scorer * scored_tokens + 2 * hidden * config.vocab_size)
