"""The cache of keys and values that the engine fills: a transformers ``DynamicCache`` whose layers have room to grow."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

SPARE_TOKENS = 128
"""Tokens that a layer has room for beyond those that it holds when it is filled or moved."""


CACHE_FIELD = next(name for name in ("cache", "past_key_values") if name in BaseModelOutputWithPast.__dataclass_fields__)
"""Name of the cache among the arguments and outputs of stock models: ``cache`` in transformers 5.24, ``past_key_values`` before."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its base registers subclasses
    """A cache layer that appends in place.

    transformers' layer copies all its keys and values for each decoded token. This one keeps them in buffers with spare room, and
    moves only when the room is used up, by an eighth of its length. ``keys`` and ``values`` are views of the tokens it holds.

    Attributes
    ----------
    rows_moved
        Whether rows were reordered, chosen or repeated.
    """

    rows_moved = False

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, each ``(batch, kv_heads, new, head_dim)``; return all of them, as views."""
        if not self.get_seq_length():
            self._buffers = (_Buffer(key_states), _Buffer(value_states))
            self.device, self.dtype, self.is_initialized = key_states.device, key_states.dtype, True
            self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        self.keys = self._buffers[0].append(self.keys, key_states)
        self.values = self._buffers[1].append(self.values, value_states)
        return self.keys, self.values

    def keep(self, first: int, index: Tensor) -> None:
        """Keep the first tokens and chosen ones behind them. Only what is kept behind the first ones moves, within its buffers.

        Parameters
        ----------
        first
            Number of first tokens that stay where they are.
        index
            The tokens that are kept behind them, int64 ``(kept,)``, rising, each at least ``first``.
        """
        total = first + len(index)
        self.keys, self.values = _moved(self.keys, first, total, index), _moved(self.values, first, total, index)

    def keep_rows(self, places: Sequence[int]) -> None:
        """Keep only the rows ``places``, in this order, each at most once. Only rows that change their place move."""
        keys, values = self.keys, self.values
        assert isinstance(keys, Tensor), "rows are kept of what is held"
        assert isinstance(values, Tensor), "rows are kept of what is held"
        for states in (keys, values):
            for place, row in enumerate(places):
                if place != row:
                    states[place].copy_(states[row])
        self.keys, self.values = keys[: len(places)], values[: len(places)]
        self.rows_moved = True

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put row ``beam_idx[i]`` in the place of row ``i``, int64 ``(batch,)``."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]  # any integer tensor will do
        self.rows_chosen(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``, int64 ``(rows,)`` or bool ``(batch,)``."""
        super().batch_select_indices(indices)
        self.rows_chosen(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        rows = 0 if self.keys is None else self.keys.shape[0]
        super().batch_repeat_interleave(repeats)
        self.rows_chosen(torch.arange(rows).repeat_interleave(repeats))

    def rows_chosen(self, rows: Tensor) -> None:
        """Take note that row ``rows[i]`` of before is row ``i`` now, int64 ``(rows,)`` or bool ``(batch,)``."""
        self.rows_moved = True


class _Buffer:
    """Room for the keys or the values of a layer; ``like`` gives batch, heads, ``head_dim``, dtype and device."""

    def __init__(self, like: Tensor) -> None:
        self._room = like[..., :0, :]

    def append(self, held: Any, new: Tensor) -> Tensor:
        """Return ``held`` with ``new`` behind it, as a view. It is moved where it does not lie here, or where room is short."""
        tokens, total = held.shape[-2], held.shape[-2] + new.shape[-2]
        self._room = self._room[: len(new)]  # rows may have left
        if total > self._room.shape[-2] or held.data_ptr() != self._room.data_ptr() or held.stride() != self._room.stride():
            # Tensors made in inference mode could not be changed outside of it, where a caller may go on.
            with torch.inference_mode(False):
                self._room = new.new_empty((*new.shape[:2], total + max(SPARE_TOKENS, tokens // 8), new.shape[-1]))
            self._room[..., :tokens, :] = held
        self._room[..., tokens:total, :] = new
        return self._room[..., :total, :]


def _moved(states: Any, first: int, total: int, index: Tensor) -> Any:
    """Move the tokens at ``index`` behind the first ones, in place; return the ``total`` tokens that are left, as a view."""
    states[..., first:total, :] = states.index_select(-2, index)
    return states[..., :total, :]


def make_cache(config: PretrainedConfig) -> DynamicCache:
    """Make an empty cache for a model of this architecture."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() for _ in cache.layers]  # type: ignore[no-untyped-call]
    return cache


def trim(cache: DynamicCache, layer: int, tokens: int) -> None:
    """Cut a layer of ``cache`` to its first ``tokens`` tokens. No memory moves."""
    held: Any = cache.layers[layer]
    held.keys, held.values = held.keys[..., :tokens, :], held.values[..., :tokens, :]


def crop(cache: DynamicCache, tokens: int) -> None:
    """Cut a stock cache to its first ``tokens`` tokens. A negative count says how many to remove: no version refuses that."""
    removed = cache.get_seq_length() - tokens
    if removed > 0:
        cache.crop(-removed)


def cache_bytes(cache: DynamicCache) -> int:
    """Count the bytes of the keys and values in ``cache``, without spare room."""
    layers: list[Any] = cache.layers
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
