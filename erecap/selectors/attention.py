"""Attention scores: keep the tokens that the newest tokens attend to, as in SnapKV (Li et al. 2024, arXiv 2404.14469)."""

import torch
from torch import Tensor
from torch.nn import functional

from erecap.schedule import PruneSchedule
from erecap.selectors.base import SelectorContext
from erecap.selectors.projections import Projections


class AttentionSelector:
    """A selector by the attention that a token receives from the newest tokens in the layer after the stage.

    The attention is summed over the newest tokens and over heads. The score of a token is the maximum of these sums over its
    neighbours, so that the neighbours of an attended token survive too. It needs no training.

    Parameters
    ----------
    projections
        Computes the model's queries and keys.
    schedule
        The stages at which tokens are scored.
    window
        Number of newest tokens whose attention counts.
    pool
        Width, in tokens, over which the maximum is taken; odd.
    """

    def __init__(self, projections: Projections, schedule: PruneSchedule, window: int = 16, pool: int = 7) -> None:
        self._projections, self._window, self._pool = projections, window, pool
        self.stage_layers = tuple(stage.after_layer for stage in schedule.stages)

    @classmethod
    def from_context(cls, context: SelectorContext) -> "AttentionSelector":
        """Make the selector from the context's model. Raise ``ValueError`` where it has none."""
        return cls(Projections.of(context, "attention"), context.schedule)

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """Score by attention received (``Selector.score``)."""
        layer, count = self.stage_layers[stage_index] + 1, hidden.shape[1]
        window = lengths[:, None] - torch.arange(self._window, 0, -1, device=hidden.device)
        places = window.clamp_min(0)
        newest = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        queries = self._projections.queries(newest, positions.gather(1, places), layer)
        keys = self._projections.rotated_keys(hidden, positions, layer)
        visible = torch.arange(count, device=hidden.device) <= places[..., None]
        attention = attention_weights(queries, keys, visible)
        received = (attention * (window >= 0)[:, None, :, None]).sum((1, 2))
        return functional.max_pool1d(received[:, None], self._pool, 1, self._pool // 2)[:, 0, :count]


def attention_weights(queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
    """Compute softmax attention in float32. Consecutive query heads share a KV head, as in grouped-query attention.

    Parameters
    ----------
    queries
        ``(batch, heads, window, head_dim)``.
    keys
        ``(batch, kv_heads, n, head_dim)``.
    visible
        Keys that each query may attend to, bool ``(batch, window, n)``.

    Returns
    -------
    Tensor
        float32 ``(batch, heads, window, n)``.
    """
    batch, heads, window, width = queries.shape
    shared = queries.float().reshape(batch, keys.shape[1], -1, width)
    logits: Tensor = (shared @ keys.float().transpose(-1, -2)).view(batch, heads, window, -1) * width**-0.5
    return logits.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
