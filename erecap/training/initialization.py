"""Initial weights of a planner whose first layers already contain induction heads.

A planner of two million parameters has to find what followed a name earlier in its context ("red ball" -> "in kitchen"). Heads in
two layers do that (Olsson et al. 2022, "In-context learning and induction heads"). A head of the first layer writes into each token
the identity of the token a fixed distance before it. A head of the second finds tokens that hold the current token's identity, and
copies them. From random weights such heads had not formed after 1.4 million tokens; from these they work within 0.1 million
(docs/lab-notes.md). As in mimetic initialisation (Trockman and Kolter 2023), this sets the start only: every weight is trained.

The two kinds of heads use different rotary pairs. The heads that look back a fixed distance use fast pairs, which tell neighbours
apart. The heads that compare content use slow pairs, which hardly rotate over thousands of positions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

FAST_PAIRS = 6
"""Number of rotary pairs used to look back. The others rotate too little from one token to the next."""


@dataclass(frozen=True)
class LookupInit:
    """Layout and strength of the lookup heads.

    Attributes
    ----------
    offsets
        Head ``h`` of the first layer looks ``offsets[h]`` tokens back.
    match_layers
        Heads of layer ``match_layers[h]`` look up the identities that head ``h`` of the first layer wrote.
    peak
        Attention logit at the right distance.
    match
        Scale of the queries and keys that compare content.
    write, copy
        Size of what a head of the first and of the second kind adds to the residual stream, relative to a token's embedding.
    embedding
        Scale of the random embedding.
    output
        Scale of the random output projections of all layers.
    """

    offsets: tuple[int, ...] = (1, 2, 3)
    match_layers: tuple[int, ...] = (1, 2)
    peak: float = 40.0
    match: float = 2.5
    write: float = 3.0
    copy: float = 1.5
    embedding: float = 3.0
    output: float = 0.15


@torch.no_grad()
def initialize_lookup(model: Qwen2ForCausalLM, settings: LookupInit | None = None, seed: int = 0) -> None:
    """Put the lookup heads into a freshly made ``model`` with one KV head, in place.

    The heads use orthogonal subspaces of the residual stream, each half a head wide. One holds the token's own identity; one per
    offset receives the identity of the token at that distance.

    Parameters
    ----------
    model
        A model with random weights.
    settings
        Layout and strength of the heads; ``LookupInit()`` by default.
    seed
        Seed of the subspaces.

    Raises
    ------
    ValueError
        For a model without room for the heads.
    """
    chosen, config = settings or LookupInit(), model.config
    _check(chosen, config)
    generator = torch.Generator().manual_seed(seed)
    model.model.embed_tokens.weight.mul_(chosen.embedding)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(chosen.output)
        layer.mlp.down_proj.weight.mul_(chosen.output)
    size = chosen.embedding * config.initializer_range  # standard deviation of an embedding's entries
    basis = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size, generator=generator))[0]
    name, *marks = basis.split(config.head_dim // 2)[: 1 + len(chosen.offsets)]
    _look_back(model.model.layers[0].self_attn, chosen, name, marks, size, _frequencies(config))
    for mark, number in zip(marks, chosen.match_layers, strict=False):
        _look_up(model.model.layers[number].self_attn, chosen, name, mark, size)


def _check(settings: LookupInit, config: Qwen2Config) -> None:
    heads, layers, width, rank = config.num_attention_heads, config.num_hidden_layers, config.hidden_size, config.head_dim // 2
    fits = heads >= len(settings.offsets) and layers > max(settings.match_layers) and width >= rank * (1 + len(settings.offsets))
    if config.num_key_value_heads != 1 or not fits:
        raise ValueError(
            f"{config.num_key_value_heads} KV heads, {heads} query heads, {layers} layers of width {width}: the lookup heads need "
            f"1 KV head, {len(settings.offsets)} query heads, {max(settings.match_layers) + 1} layers of width "
            f"{rank * (1 + len(settings.offsets))}"
        )


def _frequencies(config: Qwen2Config) -> Tensor:
    """Compute the rotary frequencies of the pairs (i, i + head_dim / 2), fastest first."""
    parameters: Any = config.rope_parameters
    half = config.head_dim // 2
    return torch.as_tensor(parameters["rope_theta"] ** (-torch.arange(half) / half))


def _look_back(attention: Any, settings: LookupInit, name: Tensor, marks: list[Tensor], size: float, frequencies: Tensor) -> None:
    """Make head ``h`` attend to the token ``offsets[h]`` back, and write that token's identity into the subspace ``marks[h]``."""
    half, fast = name.shape[0], FAST_PAIRS
    head = 2 * half
    strength = (settings.peak * head**0.5 / fast) ** 0.5
    attention.k_proj.weight.mul_(0.1)
    attention.q_proj.weight.mul_(0.1)
    attention.v_proj.weight[:half] = name
    attention.k_proj.bias[:fast] = strength
    for number, (offset, mark) in enumerate(zip(settings.offsets, marks, strict=True)):
        query, angles = torch.zeros(head), -frequencies[:fast] * offset
        query[:fast], query[half : half + fast] = strength * angles.cos(), strength * angles.sin()
        attention.q_proj.bias[number * head : (number + 1) * head] = query
        attention.o_proj.weight[:, number * head : number * head + half] = settings.write * size * mark.T


def _look_up(attention: Any, settings: LookupInit, name: Tensor, mark: Tensor, size: float) -> None:
    """Make half of the heads attend to tokens whose ``mark`` holds the current token's identity, and copy those tokens."""
    half = name.shape[0]
    head, quarter = 2 * half, half // 2
    slow = torch.cat([torch.arange(quarter, half), torch.arange(half + quarter, head)])
    attention.k_proj.weight.mul_(0.1)
    attention.k_proj.weight[slow] = settings.match * mark
    attention.v_proj.weight[:half] = name
    for number in range(attention.q_proj.weight.shape[0] // head // 2):
        block = slice(number * head, (number + 1) * head)
        attention.q_proj.weight[block] *= 0.1
        attention.q_proj.weight[block][slow] = settings.match * name
        attention.o_proj.weight[:, number * head : number * head + half] = settings.copy * size * name.T
