"""The run of new tokens through all layers, against a pruned cache."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erecap.engine.prefill import run_layer
from erecap.engine.selector_protocol import Selector
from erecap.models.architecture import DecoderParts
from erecap.models.attention_kernels import PreferredKernels
from erecap.models.grouped_attention import MOST_NEW_TOKENS, heads_grouped
from erecap.models.masks import attention_mask, extension_mask
from erecap.sessions.cache import PrunedCache
from erecap.sessions.verdicts import Judging


@dataclass
class _NewTokens:
    """The new tokens that are left on their way through the layers.

    Attributes
    ----------
    hidden
        Residual stream, ``(1, n, hidden_size)``.
    positions
        Original positions, int64 ``(1, n)``; ``alive`` is the same on the host.
    rope
        Cosine and sine of the positions, each ``(1, n, head_dim)``.
    """

    hidden: Tensor
    positions: Tensor
    rope: tuple[Tensor, Tensor]
    alive: NDArray[np.int64]

    def move(self, device: torch.device) -> None:
        """Move all tensors to ``device``, where the next layer computes."""
        if self.hidden.device != device:
            self.hidden, self.positions = self.hidden.to(device), self.positions.to(device)
            self.rope = (self.rope[0].to(device), self.rope[1].to(device))

    def keep(self, stays: NDArray[np.bool_]) -> None:
        """Keep only the tokens whose position is marked, bool ``(tokens,)``."""
        chosen = stays[self.alive]
        if chosen.all():
            return
        index = torch.from_numpy(np.flatnonzero(chosen)).to(self.hidden.device, non_blocking=True)
        self.hidden, self.positions = self.hidden.index_select(1, index), self.positions.index_select(1, index)
        self.rope = (self.rope[0].index_select(1, index), self.rope[1].index_select(1, index))
        self.alive = self.alive[chosen]


def run_new_tokens(
    parts: DecoderParts,
    cache: PrunedCache,
    ids: NDArray[np.int64],
    judging: Judging,
    stages: dict[int, int],
    selector: Selector | None,
    last: int = 1,
) -> tuple[Tensor, list[NDArray[np.int64]]]:
    """Run the tokens that follow those in a cache.

    Parameters
    ----------
    parts
        The model's modules.
    cache
        Holds the tokens before. The layers append to it, and the caller notes what they appended.
    ids
        The new token ids, int64 ``(new,)``, from position ``judging.start`` on.
    judging
        Takes the scores, and says which tokens go on.
    stages
        Number of the stage that comes after a layer, by layer.
    selector
        Scores the tokens; needed where there are stages.
    last
        Number of last tokens of which the residual stream is wanted. No stage may drop them.

    Returns
    -------
    tuple
        Residual stream of the last tokens, ``(last, hidden_size)``, and the positions that each layer appended.
    """
    tokens, ran = _enter(parts, ids, judging.start), list[NDArray[np.int64]]()
    mask, shape = None, (0, 0)
    with PreferredKernels(parts.entry) as kernels, heads_grouped(parts.config, parts.attention, len(ids), parts.entry):
        for number, (layer, place) in enumerate(zip(parts.layers, parts.places, strict=True)):
            moved = tokens.hidden.device != place
            tokens.move(place)
            keys = cache.layer_tokens[number] + len(tokens.alive)
            if moved or shape != (len(tokens.alive), keys):
                mask, shape = _mask(parts.attention, keys, tokens.hidden, len(ids)), (len(tokens.alive), keys)
            kernels.prefer_for(len(tokens.alive))
            tokens.hidden = run_layer(layer, tokens.hidden, mask, cache.store, tokens.rope)
            ran.append(tokens.alive)
            if number in stages and selector is not None:
                _judge(parts, cache, tokens, judging, number, stages[number], selector)
    return tokens.hidden[0, -last:], ran


def _enter(parts: DecoderParts, ids: NDArray[np.int64], start: int) -> _NewTokens:
    alive = np.arange(start, start + len(ids))
    positions = torch.from_numpy(alive)[None].to(parts.entry, non_blocking=True)
    hidden = parts.embed(torch.from_numpy(ids)[None].to(parts.entry, non_blocking=True))
    return _NewTokens(hidden, positions, parts.rotary(hidden, positions), alive)


def _mask(kind: str, keys: int, hidden: Tensor, entered: int) -> Tensor | None:
    """Make the mask of the tokens that are left of ``entered``. Many tokens without a cache are plainly causal, which is faster."""
    if hidden.shape[1] == keys and entered > MOST_NEW_TOKENS:
        return attention_mask(kind, None, hidden)
    return extension_mask(kind, keys, hidden)


def _judge(
    parts: DecoderParts,
    cache: PrunedCache,
    tokens: _NewTokens,
    judging: Judging,
    layer: int,
    stage: int,
    selector: Selector,
) -> None:
    """Score the new tokens at a stage, and drop those that do not go on, with the keys of older tokens of the same chunk."""
    lengths = torch.full((1,), len(tokens.alive), device=tokens.hidden.device)
    scores = parts.agree(selector.score(tokens.hidden, tokens.positions, stage, lengths))
    judging.take(scores[0], tokens.alive)
    if not judging.at_once:
        return
    stays = judging.stays(stage)
    for deeper in range(layer + 1, len(parts.layers)):
        cache.keep(deeper, stays)
    tokens.keep(stays)
