"""The pruned cache of a session: each layer holds the keys and values of tokens of its own, at their original positions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig

from erecap.models.kv_cache import GrowingLayer, cache_bytes, make_cache, trim


class PrunedCache:
    """Keys and values, and the positions of the tokens that each layer holds.

    Layers append in place while they run. The new tokens count only once they are noted (``note`` and ``note_everywhere``). Until
    then ``restore`` takes them out again.

    Parameters
    ----------
    config
        The model's config.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self.store: DynamicCache = make_cache(config)
        self._positions: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * config.num_hidden_layers
        self._latest: list[int] = []  # tokens noted everywhere and not yet in _positions
        self._moving = False

    @property
    def positions(self) -> tuple[NDArray[np.int64], ...]:
        """Original positions of the tokens that each layer holds, int64 ``(held,)``, rising."""
        self._fold()
        return tuple(self._positions)

    @property
    def layer_tokens(self) -> tuple[int, ...]:
        """Number of tokens that each layer holds."""
        return tuple(len(held) + len(self._latest) for held in self._positions)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values, without spare room."""
        return cache_bytes(self.store) if any(self.layer_tokens) else 0

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values that ``layer`` holds, each ``(1, kv_heads, held, head_dim)``, as views."""
        held: Any = self._layer(layer)
        return held.keys, held.values

    def append(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Append keys and values that were computed elsewhere, each ``(1, kv_heads, new, head_dim)``; they are to be noted."""
        self._layer(layer).update(keys, values)

    def note(self, layer: int, positions: NDArray[np.int64]) -> None:
        """Take note that ``layer`` has appended the tokens at ``positions``."""
        self._fold()
        self._positions[layer] = np.concatenate([self._positions[layer], positions])

    def note_everywhere(self, position: int) -> None:
        """Take note that every layer has appended the token at ``position``."""
        self._latest.append(position)

    def lacking(self, tokens: int) -> NDArray[np.bool_]:
        """Mark the first ``tokens`` positions that some layer does not hold, bool ``(tokens,)``."""
        counts = np.zeros(tokens, np.int64)
        for held in self.positions:
            counts[held[held < tokens]] += 1
        return counts < len(self._positions)

    def crop(self, tokens: int) -> None:
        """Take out all tokens at positions from ``tokens`` on. No memory moves."""
        self._fold()
        for layer, held in enumerate(self._positions):
            self._positions[layer] = held[: np.searchsorted(held, tokens)]
            self._trim(layer)

    def keep(self, layer: int, kept: NDArray[np.bool_]) -> None:
        """Drop those tokens of ``layer`` that ``kept`` does not mark, bool ``(tokens,)`` by position; later tokens stay."""
        self._fold()
        held = self._positions[layer]
        chosen = np.ones(len(held), np.bool_)
        known = int(np.searchsorted(held, len(kept)))
        chosen[:known] = kept[held[:known]]
        if chosen.all():
            return
        first = int(chosen.argmin())
        moved = self._layer(layer)
        index = torch.from_numpy(np.flatnonzero(chosen[first:]) + first).to(moved.device, non_blocking=True)
        self._moving = True
        moved.keep(first, index)
        self._positions[layer] = held[chosen]
        self._moving = False

    def restore(self) -> bool:
        """Take out all tokens that were not noted. Return whether that was enough: a ``keep`` that broke off leaves chaos."""
        if self._moving:
            return False
        self._fold()
        for layer in range(len(self._positions)):
            self._trim(layer)
        return True

    def state(self) -> dict[str, Tensor]:
        """Return positions, keys and values as tensors by name, for a file; a layer that holds nothing has positions only."""
        made = dict[str, Tensor]()
        for layer, held in enumerate(self.positions):
            made[f"layers.{layer}.positions"] = torch.from_numpy(held)
            if len(held):
                made[f"layers.{layer}.keys"], made[f"layers.{layer}.values"] = self.states(layer)
        return made

    def fill(self, state: Mapping[str, Tensor], places: Sequence[torch.device]) -> None:
        """Fill an empty cache with what ``state`` returned, each layer on its device."""
        for layer, place in enumerate(places):
            self._positions[layer] = state[f"layers.{layer}.positions"].numpy()
            if len(self._positions[layer]):
                keys, values = (state[f"layers.{layer}.{name}"].to(place) for name in ("keys", "values"))
                self.append(layer, keys, values)

    def _fold(self) -> None:
        if self._latest:
            latest = np.array(self._latest, np.int64)
            self._positions = [np.concatenate([held, latest]) for held in self._positions]
            self._latest = []

    def _trim(self, layer: int) -> None:
        tokens = len(self._positions[layer])
        if self._layer(layer).get_seq_length() > tokens:
            trim(self.store, layer, tokens)

    def _layer(self, layer: int) -> GrowingLayer:
        held = self.store.layers[layer]
        assert isinstance(held, GrowingLayer), "make_cache makes no others"
        return held
