"""One decode step for all rows, on the cache of a prefill."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from erecap.engine.prefill import PrefillResult, run_layer
from erecap.models.architecture import DecoderParts
from erecap.models.grouped_attention import heads_grouped
from erecap.models.masks import attention_mask


class DecodeSteps:
    """A decoder that runs one token per row through all layers, on the cache of a prefill.

    ``decode`` chooses the tokens and decides when to stop. Rotary embeddings and masks of all steps are made once, at the start.

    Parameters
    ----------
    parts
        The model's modules.
    start
        Result of the prefill; its cache grows with each step.
    max_new_tokens
        The most steps that will be run.
    on_layer
        Called after each layer with its number and the residual stream that leaves it, ``(batch, 1, hidden_size)``.
    """

    def __init__(
        self,
        parts: DecoderParts,
        start: PrefillResult,
        max_new_tokens: int,
        on_layer: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        device = start.logits.device
        self._parts, self._cache, self._on_layer = parts, start.cache, on_layer
        first = torch.tensor(start.next_positions, device=device)
        positions = first[:, None] + torch.arange(max_new_tokens, device=device)
        like = torch.empty(0, dtype=parts.embed.weight.dtype, device=device)  # type: ignore[arg-type]  # rotary reads dtype and device
        cos, sin = parts.rotary(like, positions)
        self._ropes = {place: (cos.to(place), sin.to(place)) for place in set(parts.places)}
        self._lengths = start.layer_tokens
        self._widths = tuple(max(lengths) for lengths in zip(*start.layer_tokens, strict=True))
        self._most = max_new_tokens
        self._masks = self._padding_masks()

    def run(self, tokens: Tensor, step: int) -> Tensor:
        """Run one step.

        Parameters
        ----------
        tokens
            The last decoded token of each row, int64 ``(batch,)``.
        step
            Number of tokens of each row that were decoded before them.

        Returns
        -------
        Tensor
            Logits of the next token, float32 ``(batch, vocab)``.
        """
        hidden = self._parts.embed(tokens[:, None])
        ropes = {place: (cos[:, step : step + 1], sin[:, step : step + 1]) for place, (cos, sin) in self._ropes.items()}
        with heads_grouped(self._parts.config, self._parts.attention, 1, hidden.device):
            layers = zip(self._parts.layers, self._parts.places, self._masks, self._widths, strict=True)
            for number, (layer, place, mask, width) in enumerate(layers):
                visible = None if mask is None else mask[..., : width + step + 1]
                hidden = run_layer(layer, hidden, attention_mask(self._parts.attention, visible, hidden), self._cache, ropes[place])
                if self._on_layer is not None:
                    self._on_layer(number, hidden)
        return self._parts.head(self._parts.norm(hidden[:, -1])).float()  # type: ignore[no-any-return]

    def keep_rows(self, places: Sequence[int]) -> None:
        """Keep only the rows ``places``, in this order, in the cache and for the steps to come."""
        layers: list[Any] = self._cache.layers
        for layer in layers:
            layer.keep_rows(places)
        chosen = list(places)
        self._ropes = {device: (cos[chosen], sin[chosen]) for device, (cos, sin) in self._ropes.items()}
        self._lengths = tuple(self._lengths[place] for place in places)
        self._masks = self._padding_masks()

    def _padding_masks(self) -> list[Tensor | None]:
        """Make for each layer the mask that hides padding, bool ``(batch, 1, 1, keys)``, on its device; ``None`` without padding.

        Layers between two stages hold the same tokens and share one mask.
        """
        layers = list(zip(zip(*self._lengths, strict=True), self._widths, self._parts.places, strict=True))
        made = {layer: _padding_mask(*layer, self._most) for layer in dict.fromkeys(layers)}
        return [made[layer] for layer in layers]


def _padding_mask(lengths: tuple[int, ...], width: int, device: torch.device, max_new_tokens: int) -> Tensor | None:
    if set(lengths) == {width}:
        return None
    keys = torch.arange(width + max_new_tokens, device=device)
    own = keys < torch.tensor(lengths, device=device)[:, None]
    return (own | (keys >= width))[:, None, None]
