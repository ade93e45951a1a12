"""The cache of keys and values that the engine fills: a transformers ``DynamicCache`` whose layers have room to grow."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

SPARE_TOKENS = 128
"""Tokens that a layer has room for beyond those that it holds when it is filled or moved."""


class GrowingLayer(DynamicLayer):
    """A cache layer that appends in place.

    transformers' layer copies all its keys and values for each decoded token. This one keeps them in buffers with spare room, and
    moves only when the room is used up, by an eighth of its length. ``keys`` and ``values`` are views of the tokens it holds.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, each ``(batch, kv_heads, new, head_dim)``; return all of them, as views."""
        held = self.get_seq_length()
        total = held + key_states.shape[-2]
        if not held or not self._has_room(total):
            self._move(key_states, value_states, held, total)
        self._buffers[0][..., held:total, :] = key_states
        self._buffers[1][..., held:total, :] = value_states
        self.keys, self.values = (buffer[..., :total, :] for buffer in self._buffers)
        return self.keys, self.values

    def _has_room(self, total: int) -> bool:
        """Tell whether ``keys`` and ``values`` still lie at the start of the buffers, and ``total`` tokens fit."""
        held = (self.keys, self.values)
        return total <= self._buffers[0].shape[-2] and all(
            own.data_ptr() == buffer.data_ptr() and own.stride() == buffer.stride()
            for own, buffer in zip(held, self._buffers, strict=True)
        )

    def _move(self, key_states: Tensor, value_states: Tensor, held: int, total: int) -> None:
        """Make buffers with room for ``total`` tokens and more, and copy the ``held`` ones."""
        room = total + max(SPARE_TOKENS, held // 8)
        # Tensors made in inference mode could not be changed outside of it, where a caller may go on.
        with torch.inference_mode(False):
            self._buffers = tuple(new.new_empty((*new.shape[:2], room, new.shape[-1])) for new in (key_states, value_states))
        self.device, self.dtype, self.is_initialized = key_states.device, key_states.dtype, True
        if held:
            self._buffers[0][..., :held, :] = self.keys
            self._buffers[1][..., :held, :] = self.values


def make_cache(config: PretrainedConfig) -> DynamicCache:
    """Make an empty cache for a model of this architecture."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() for _ in cache.layers]
    return cache


def trim(cache: DynamicCache, layer: int, tokens: int) -> None:
    """Cut a layer of ``cache`` to its first ``tokens`` tokens. No memory moves."""
    held: Any = cache.layers[layer]
    held.keys, held.values = held.keys[..., :tokens, :], held.values[..., :tokens, :]


def cache_bytes(cache: DynamicCache) -> int:
    """Count the bytes of the keys and values in ``cache``, without spare room."""
    layers: list[Any] = cache.layers
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
