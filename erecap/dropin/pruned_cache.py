"""The cache of a pruned model: each layer knows how many tokens of each row's prompt it holds.

That belongs to the rows, so it goes with them through every operation on rows: reordering, choosing and repeating them.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from erecap.models.kv_cache import GrowingLayer


class PrunedLayer(GrowingLayer):  # type: ignore[no-untyped-call]  # its base registers subclasses
    """A cache layer that holds what is left of prompts.

    Attributes
    ----------
    prompt_tokens
        Tokens of each row's prompt in this layer, int64 ``(batch,)``, on the host; ``None`` before a prompt was pruned.
    starts
        Column of the input in which each row begins, int64 ``(batch,)``, on the host.
    columns
        Columns of the layer that hold prompts: the tokens of the longest row when they were pruned.
    prompt_width
        Columns of the input, padding included.
    """

    prompt_tokens: Tensor | None = None
    starts: Tensor
    columns: int
    prompt_width: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each row's prompt; ``prompt_tokens`` as numbers."""
        return () if self.prompt_tokens is None else tuple(self.prompt_tokens.tolist())

    def reset(self) -> None:
        """Forget everything, so that the layer can take a new prompt."""
        super().reset()
        self.prompt_tokens = None

    def rows_chosen(self, rows: Tensor) -> None:
        """Let the facts about rows follow them."""
        if self.prompt_tokens is not None:
            own = rows.to("cpu")
            self.prompt_tokens, self.starts = self.prompt_tokens[own], self.starts[own]


def take_over(cache: DynamicCache, layers: int) -> None:
    """Give an empty cache layers that can hold pruned prompts."""
    cache.layers = [PrunedLayer() for _ in range(layers)]  # type: ignore[no-untyped-call]


def remember(cache: DynamicCache, layer_tokens: tuple[tuple[int, ...], ...], starts: Tensor, width: int) -> None:
    """Write into the layers what was pruned.

    Parameters
    ----------
    cache
        A cache that ``take_over`` prepared and a prefill has filled.
    layer_tokens
        ``[row][layer]``: tokens of the prompt in the layer.
    starts
        Column in which each row begins, int64 ``(batch,)``.
    width
        Columns of the prompt, padding included.
    """
    own: list[Any] = cache.layers
    for layer, tokens in zip(own, zip(*layer_tokens, strict=True), strict=True):
        layer.prompt_tokens, layer.columns = torch.tensor(tokens), max(tokens)
        layer.starts, layer.prompt_width = starts.to("cpu"), width


def pruned_layers(cache: DynamicCache) -> list[PrunedLayer]:
    """Return the layers of a cache that holds pruned prompts.

    Raises
    ------
    ValueError
        For a cache that holds something else, and for one whose layers have not gained the same number of tokens since.
    """
    layers: list[Any] = cache.layers
    if any(not isinstance(layer, PrunedLayer) or layer.prompt_tokens is None for layer in layers):
        raise ValueError(
            "the cache was filled outside of this erecap.pruned(...), or rebuilt from its tensors: begin with an empty cache "
            "inside the context"
        )
    appended = {layer.get_seq_length() - layer.columns for layer in layers}
    if len(appended) > 1 or min(appended) < 0:
        raise ValueError(
            "the cache was cropped into its pruned prompt, as assisted generation and prompt lookup do, which put candidates "
            "into the first forward: generate without them"
        )
    return layers
