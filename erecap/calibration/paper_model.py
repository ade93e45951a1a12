"""A model of the cost on paper: what a prefill and a decode step take on one device or several, from rates of the machine.

A layer takes the longest of three times: its FLOPs at the rate of matrix products times a measured efficiency, reading its weights
(and in decode its keys and values) from memory, and the least time per layer that launching its kernels takes. On several devices
traffic is added:

- *pipeline*: the layers are split into runs of about equal length, one per device. One prompt passes them one after the other, so
  no layer gets faster; each boundary carries the hidden states of the tokens that are left. Decode does the same for one token.
- *tensor*: every layer is split over all devices, which sum their results in two all-reduces of the hidden states per layer
  (Megatron-LM, arXiv 1909.08053). An all-reduce of S bytes takes ``latency + S / busbw * 2 (n - 1) / n`` (a ring;
  NVIDIA/nccl-tests, doc/PERFORMANCE.md).

Nothing overlaps: neither traffic with computation, nor one prompt with another. Scorers run whole on every device. Left out: what
chooses and gathers tokens at a stage, and the gathering of logits under tensor parallel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from transformers import PretrainedConfig

from erecap.calibration.flops import causal_pairs, layer_cost
from erecap.calibration.paper_machine import Machine

Parallel = Literal["single", "pipeline", "tensor"]
PARALLEL: tuple[Parallel, ...] = ("single", "pipeline", "tensor")


@dataclass(frozen=True)
class ModelWork:
    """What a decoder of equal layers computes, reads and sends.

    Attributes
    ----------
    layers, heads, kv_heads
        As the model's config names them.
    linear_flops
        FLOPs of a layer's matrices per token.
    pair_flops
        FLOPs of a layer's attention per (query, key) pair.
    scorer_flops
        FLOPs of a stage's scorer per token.
    layer_bytes
        Weights of a layer.
    head_bytes
        Weights of the output matrix.
    table_bytes
        Weights of the embedding table; 0 where it is the output matrix.
    kv_bytes
        Keys and values of one token in one layer.
    hidden_bytes
        Hidden state of one token.
    """

    layers: int
    heads: int
    kv_heads: int
    linear_flops: int
    pair_flops: int
    scorer_flops: int
    layer_bytes: int
    head_bytes: int
    table_bytes: int
    kv_bytes: int
    hidden_bytes: int

    @classmethod
    def of(cls, config: PretrainedConfig, item_bytes: int) -> "ModelWork":
        """Read the work from a model's ``config``, for weights of ``item_bytes`` bytes each."""
        cost, hidden = layer_cost(config), config.hidden_size
        head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
        table = config.vocab_size * hidden * item_bytes
        return cls(
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            linear_flops=cost.linear_per_token,
            pair_flops=cost.attention_per_pair,
            scorer_flops=2 * (hidden + 1) * (hidden // 4),
            layer_bytes=cost.linear_per_token // 2 * item_bytes,
            head_bytes=table,
            table_bytes=0 if config.tie_word_embeddings else table,
            kv_bytes=2 * config.num_key_value_heads * head_dim * item_bytes,
            hidden_bytes=hidden * item_bytes,
        )


@dataclass(frozen=True)
class Split:
    """How a model is spread over devices.

    Attributes
    ----------
    parallel
        ``single``, ``pipeline`` or ``tensor``.
    devices
        Number of devices.
    """

    parallel: Parallel
    devices: int

    @property
    def shards(self) -> int:
        """Devices that share each layer."""
        return self.devices if self.parallel == "tensor" else 1

    def boundaries(self, layers: int) -> frozenset[int]:
        """Return the layers after which hidden states go to another device."""
        if self.parallel != "pipeline":
            return frozenset()
        return frozenset(layers * device // self.devices - 1 for device in range(1, self.devices))

    def check(self, work: ModelWork) -> None:
        """Raise ``ValueError`` where a model of ``work`` cannot be spread like this."""
        if self.parallel == "pipeline" and self.devices > work.layers:
            raise ValueError(
                f"{self.devices} devices in a pipeline need a layer each, the model has {work.layers}: use fewer --gpus"
            )
        if self.parallel == "tensor" and (work.kv_heads % self.devices or work.heads % self.devices):
            fitting = [count for count in range(2, work.kv_heads + 1) if work.kv_heads % count == 0 and work.heads % count == 0]
            remedy = f"use --gpus {' or '.join(map(str, fitting))}" if fitting else "use --parallel pipeline"
            raise ValueError(
                f"{work.kv_heads} KV heads and {work.heads} query heads do not divide by {self.devices} devices, and tensor "
                f"parallel gives each device whole heads: {remedy}"
            )

    def needed_bytes(self, work: ModelWork, layer_tokens: Sequence[int]) -> float:
        """Estimate the memory that the fullest device needs for weights, keys and values. Activations are left out."""
        layers = (work.layers * work.layer_bytes + work.kv_bytes * sum(layer_tokens)) / self.devices
        if self.parallel == "tensor":  # each device has the whole embedding table
            return layers + work.head_bytes / self.devices + work.table_bytes
        return layers + (work.head_bytes + work.table_bytes if self.devices == 1 else max(work.head_bytes, work.table_bytes))


@dataclass(frozen=True)
class LayerTime:
    """What one layer takes, and the traffic that follows it.

    Attributes
    ----------
    compute_s
        FLOPs at the machine's rate.
    read_s
        Reading weights, keys and values.
    busy_s
        The longest of the two and of the least time per layer.
    traffic_bytes
        Bytes that each device sends (tensor), or that pass the boundary (pipeline).
    traffic_s
        Seconds of it.
    """

    compute_s: float
    read_s: float
    busy_s: float
    traffic_bytes: int
    traffic_s: float


def prefill_times(machine: Machine, work: ModelWork, split: Split, layer_tokens: Sequence[int]) -> list[LayerTime]:
    """Predict each layer of a prefill in which ``layer_tokens[l]`` tokens enter layer ``l``."""
    reached, rate = machine.efficiency, machine.matrix_flops_per_s.value
    times = []
    for layer, (tokens, following) in enumerate(pairwise([*layer_tokens, layer_tokens[-1]])):
        flops_s = work.linear_flops * tokens / reached.linear + work.pair_flops * causal_pairs(tokens) / reached.attention
        scored_s = work.scorer_flops * tokens / reached.linear if following < tokens else 0.0
        compute_s = (flops_s / split.shards + scored_s) / rate
        read_s = _read_s(machine, work.layer_bytes / split.shards)
        traffic = _traffic(machine, work, split, layer, tokens, following)
        times.append(LayerTime(compute_s, read_s, max(compute_s, read_s, reached.layer_s), *traffic))
    return times


def step_times(machine: Machine, work: ModelWork, split: Split, cached: Sequence[int]) -> list[LayerTime]:
    """Predict each layer of a decode step, where ``cached[l]`` tokens are cached in layer ``l``."""
    reached, rate = machine.efficiency, machine.matrix_flops_per_s.value
    times = []
    for layer, tokens in enumerate(cached):
        compute_s = (work.linear_flops / reached.linear + work.pair_flops * tokens / reached.attention) / split.shards / rate
        read_s = _read_s(machine, (work.layer_bytes + work.kv_bytes * tokens) / split.shards)
        traffic = _traffic(machine, work, split, layer, 1, 1)
        times.append(LayerTime(compute_s, read_s, max(compute_s, read_s, reached.step_layer_s), *traffic))
    return times


def prefill_flops(work: ModelWork, layer_tokens: Sequence[int]) -> int:
    """Count the FLOPs of matrices and attention of a prefill."""
    return sum(work.linear_flops * tokens + work.pair_flops * causal_pairs(tokens) for tokens in layer_tokens)


def head_s(machine: Machine, work: ModelWork, split: Split) -> float:
    """Predict the seconds of the logits of one position: reading the output matrix."""
    return _read_s(machine, work.head_bytes / split.shards)


def _read_s(machine: Machine, size_bytes: float) -> float:
    return size_bytes / (machine.memory_bytes_per_s.value * machine.efficiency.reading)


def _traffic(machine: Machine, work: ModelWork, split: Split, layer: int, tokens: int, following: int) -> tuple[int, float]:
    """Return (bytes, seconds) of the traffic of a layer that ``tokens`` enter and ``following`` leave."""
    if split.shards > 1:
        size = tokens * work.hidden_bytes
        return round(2 * size * 2 * (split.shards - 1) / split.shards), 2 * machine.all_reduce_s(size, split.shards)
    if layer in split.boundaries(work.layers):
        return following * work.hidden_bytes, machine.send_s(following * work.hidden_bytes)
    return 0, 0.0
