"""Keep what the newest tokens attend to, as SnapKV scores a cache (Li et al. 2024, arXiv 2404.14469). Needs no training."""

import torch
from torch import Tensor
from torch.nn import functional

from erecap.schedule.schedule import PruneSchedule
from erecap.selectors.base import SelectorContext
from erecap.selectors.projections import Projections


class AttentionSelector:
    """The score is the attention that a token receives in the layer after the stage from the last ``window`` tokens.

    Summed over window and heads, then the maximum over ``pool`` neighbours, so that what stands beside a wanted token stays.
    """

    def __init__(self, projections: Projections, schedule: PruneSchedule, window: int = 16, pool: int = 7) -> None:
        self._projections, self._window, self._pool = projections, window, pool
        self._layers = [stage.after_layer + 1 for stage in schedule.stages]

    @classmethod
    def from_context(cls, context: SelectorContext) -> "AttentionSelector":
        """Reads the context's model. Raises ``ValueError`` where it has none."""
        return cls(Projections.of(context, "attention"), context.schedule)

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """See ``Selector.score``."""
        layer, count = self._layers[stage_index], hidden.shape[1]
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
    """float32 ``(batch, heads, window, n)``; query heads share the KV heads in runs, as in grouped-query attention."""
    batch, heads, window, width = queries.shape
    shared = queries.float().reshape(batch, keys.shape[1], -1, width)
    logits: Tensor = (shared @ keys.float().transpose(-1, -2)).view(batch, heads, window, -1) * width**-0.5
    return logits.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
