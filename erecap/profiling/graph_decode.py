"""Greedy decode on static buffers, so that a CUDA graph can replay the step of one token (experimental).

A pruned prefill leaves a cache of a different length in each layer. Each layer gets a buffer with room for its cached tokens and
the tokens to decode. The step reads its cache slot and the number of keys from device memory, so it needs no value from the host.
It takes one prompt at a time, and layers as in Qwen2 and Llama, without norms on queries and keys.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from erecap.engine.prefill import PrefillResult
from erecap.models.architecture import check_length, decoder_parts

SPLITS = 16
"""Number of parts into which the product of attention weights and values is cut, so that they run in parallel."""

_WARM_UPS = 3

Attend = Callable[["StaticLayer", Tensor, Tensor, Tensor], Tensor]
"""Attention of one token. It takes the layer, queries ``(heads, head_dim)``, the token's cache slot, int64 ``(1,)``, and the number
of tokens in the cache, int32 ``(1,)``. It returns ``(1, heads * head_dim)``."""


@dataclass
class StaticLayer:
    """One decoder layer's weights and buffers.

    Attributes
    ----------
    qkv, qkv_bias
        The query, key and value projections in one matrix, ``((heads + 2 * kv_heads) * head_dim, hidden_size)``, and one bias.
    out
        The output projection of attention.
    input_norm, mlp_norm
        The norms before attention and before the MLP.
    mlp
        The MLP.
    cache
        Keys, then values: ``(2, kv_heads, slots, head_dim)``.
    heads
        Number of query heads.
    bounds, one_query
        For the flash kernel, where keys and queries begin and end, int32 ``(2,)``.
    """

    qkv: Tensor
    qkv_bias: Tensor | None
    out: Any
    input_norm: Any
    mlp_norm: Any
    mlp: Any
    cache: Tensor
    heads: int
    bounds: Tensor
    one_query: Tensor

    @property
    def kv_heads(self) -> int:
        """Number of KV heads."""
        return self.cache.shape[1]


class GraphDecoder:
    """A greedy decoder of exactly ``max_new_tokens`` tokens. It copies the cache of the prefill and leaves the original as it is.

    Parameters
    ----------
    model
        The model that ran the prefill.
    start
        Result of the prefill of one prompt.
    max_new_tokens
        Number of tokens to decode.
    attention
        ``split``: two batched products, on any device. ``flash``: torch's flash kernel, for bfloat16 and float16 on a GPU.

    Raises
    ------
    ValueError
        For a batch, an unknown attention, a model with norms on queries and keys, or an answer beyond the model's positions.
    """

    def __init__(self, model: PreTrainedModel, start: PrefillResult, max_new_tokens: int, attention: str = "split") -> None:
        if len(start.logits) != 1:
            raise ValueError(f"a batch of {len(start.logits)} prompts cannot be decoded by a graph: give one prompt")
        if attention not in ATTENTIONS:
            raise ValueError(f"attention {attention!r} is not known: use {' or '.join(ATTENTIONS)}")
        check_length(model.config, max(start.next_positions), max_new_tokens)
        self._parts, self._attend, self.max_new_tokens = decoder_parts(model), ATTENTIONS[attention], max_new_tokens
        self._start, self.logits = start, start.logits
        self.graph: torch.cuda.CUDAGraph | None = None
        with torch.inference_mode():
            self._make_buffers(model)
            self.reset()

    def _make_buffers(self, model: PreTrainedModel) -> None:
        device, lengths = self._start.logits.device, self._start.layer_tokens[0]
        cached: list[Any] = self._start.cache.layers
        self._layers = [
            _static_layer(layer, kept.keys, kept.values, self.max_new_tokens)
            for layer, kept in zip(self._parts.layers, cached, strict=True)
        ]
        self._base = torch.tensor(lengths, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._token = torch.zeros(1, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(self.max_new_tokens, dtype=torch.int64, device=device)
        self._cos, self._sin = self._rotary_tables(device)

    def _rotary_tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines by step, ``(max_new_tokens, heads + 2 * kv_heads, head_dim)`` each; values are not rotated.

        The rotation subtracts one half of each head; that sign is in the sines.
        """
        positions = self._start.next_positions[0] + torch.arange(self.max_new_tokens, device=device)
        weight: Any = self._parts.embed.weight
        cos, sin = (table[0] for table in self._parts.rotary(weight, positions[None]))
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
        turning, staying = self._layers[0].heads + self._layers[0].kv_heads, self._layers[0].kv_heads
        still = torch.ones_like(cos)[:, None].expand(-1, staying, -1)
        return (
            torch.cat([cos[:, None].expand(-1, turning, -1), still], dim=1).contiguous(),
            torch.cat([sin[:, None].expand(-1, turning, -1), torch.zeros_like(still)], dim=1).contiguous(),
        )

    @torch.inference_mode()
    def reset(self) -> None:
        """Go back to the first token, which is the argmax of the prefill's logits."""
        first = self._start.logits.argmax(-1)
        self._step.zero_()
        self._token.copy_(first)
        self.tokens[:1].copy_(first)

    def step(self) -> None:
        """Run one token through the layers and choose the next. No value is read by the host."""
        hidden = self._parts.embed(self._token)
        slots, cos, sin = (
            self._base + self._step,
            self._cos.index_select(0, self._step)[0],
            self._sin.index_select(0, self._step)[0],
        )
        counts = (slots + 1).to(torch.int32)
        for number, layer in enumerate(self._layers):
            hidden = _run_static(layer, hidden, cos, sin, slots[number : number + 1], counts[number : number + 1], self._attend)
        self.logits = self._parts.head(_norm(self._parts.norm, hidden))
        self._step.add_(1)
        self._token.copy_(self.logits.argmax(-1))
        self.tokens.index_copy_(0, self._step, self._token)

    @torch.inference_mode()
    def capture(self) -> None:
        """Record one step as a CUDA graph. A few warm-up steps first load the kernels and handles that it needs."""
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(min(_WARM_UPS, self.max_new_tokens - 1)):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.reset()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.graph = graph
        self.reset()

    @torch.inference_mode()
    def decode(self) -> Iterator[int]:
        """Reset, then yield the tokens one by one. The host waits for the device once per token."""
        self.reset()
        yield int(self.tokens[0])
        for step in range(1, self.max_new_tokens):
            if self.graph is None:
                self.step()
            else:
                self.graph.replay()
            yield int(self.tokens[step])


def _static_layer(layer: Any, keys: Tensor, values: Tensor, room: int) -> StaticLayer:
    attention = layer.self_attn
    if hasattr(attention, "q_norm"):
        raise ValueError("a layer with norms on queries and keys cannot be decoded by a graph: use a Qwen2 or Llama model")
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [projection.bias for projection in projections]
    kv_heads, tokens, head_dim = keys.shape[1:]
    slots = -(-(tokens + room) // SPLITS) * SPLITS
    cache = keys.new_zeros(2, kv_heads, slots, head_dim)
    cache[0, :, :tokens], cache[1, :, :tokens] = keys[0], values[0]
    return StaticLayer(
        qkv=torch.cat([projection.weight for projection in projections]),
        qkv_bias=None if biases[0] is None else torch.cat(biases),
        out=attention.o_proj,
        input_norm=layer.input_layernorm,
        mlp_norm=layer.post_attention_layernorm,
        mlp=layer.mlp,
        cache=cache,
        heads=attention.q_proj.weight.shape[0] // head_dim,
        bounds=torch.tensor([0, slots], dtype=torch.int32, device=keys.device),
        one_query=torch.tensor([0, 1], dtype=torch.int32, device=keys.device),
    )


def _run_static(
    layer: StaticLayer, hidden: Tensor, cos: Tensor, sin: Tensor, slot: Tensor, count: Tensor, attend: Attend
) -> Tensor:
    """Run one layer on ``hidden``, ``(1, hidden_size)``; ``cos`` and ``sin`` are ``(heads + 2 * kv_heads, head_dim)``."""
    flat = functional.linear(_norm(layer.input_norm, hidden), layer.qkv, layer.qkv_bias)
    rows = flat.view(-1, layer.cache.shape[-1])
    rows = torch.addcmul(rows * cos, rows.roll(rows.shape[-1] // 2, -1), sin)
    fresh = rows[layer.heads :].view(2, layer.kv_heads, 1, -1)
    layer.cache.index_copy_(2, slot, fresh)
    hidden = hidden + layer.out(attend(layer, rows[: layer.heads], slot, count))
    inner = _norm(layer.mlp_norm, hidden)
    return hidden + layer.mlp(inner)  # type: ignore[no-any-return]  # transformers' modules are untyped


def _norm(module: Any, hidden: Tensor) -> Tensor:
    """Apply an RMS norm; torch runs it as one kernel where it has one."""
    return functional.rms_norm(hidden, (hidden.shape[-1],), module.weight, module.variance_epsilon)


def split_attention(layer: StaticLayer, query: Tensor, slot: Tensor, count: Tensor) -> Tensor:
    """Compute attention (``Attend``) by batched products over KV heads: float32 scores, weights x values in ``SPLITS`` parts."""
    keys, values = layer.cache[0], layer.cache[1]
    grouped = query.view(layer.kv_heads, -1, query.shape[-1])
    scores = _product_float32(grouped, keys.transpose(1, 2)) * query.shape[-1] ** -0.5
    slots = keys.shape[1]
    hidden = torch.arange(slots, device=query.device) > slot
    weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1).to(query.dtype)
    parts = weights.view(layer.kv_heads, -1, SPLITS, slots // SPLITS).transpose(1, 2)
    mixed = parts @ values.view(layer.kv_heads, SPLITS, slots // SPLITS, -1)
    return mixed.sum(1, dtype=torch.float32).to(query.dtype).view(1, -1)


def _product_float32(left: Tensor, right: Tensor) -> Tensor:
    """Multiply batches with a float32 result. Only CUDA multiplies bfloat16 into float32; elsewhere the factors are converted."""
    if left.device.type == "cuda" and left.dtype != torch.float32:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def flash_attention(layer: StaticLayer, query: Tensor, slot: Tensor, count: Tensor) -> Tensor:
    """Compute attention (``Attend``) by torch's flash kernel for variable lengths, which reads ``count`` from device memory."""
    result = torch.ops.aten._flash_attention_forward(
        query.view(1, layer.heads, -1),
        layer.cache[0].transpose(0, 1),
        layer.cache[1].transpose(0, 1),
        layer.one_query,
        layer.bounds,
        1,
        layer.cache.shape[2],
        0.0,
        False,
        False,
        seqused_k=count,
    )
    return result[0].reshape(1, -1)  # type: ignore[no-any-return]  # torch.ops is untyped


ATTENTIONS: dict[str, Attend] = {"split": split_attention, "flash": flash_attention}
