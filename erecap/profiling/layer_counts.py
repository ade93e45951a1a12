"""How many tokens enter each layer under the default stages, from a prompt's length and a keep ratio alone."""

from functools import lru_cache

import numpy as np

from erecap.schedule import PruneSchedule, layer_tokens


@lru_cache(maxsize=1024)
def tokens_by_layer(length: int, keep: float, layers: int) -> tuple[int, ...]:
    """Count the tokens that enter each of ``layers`` layers, for a prompt of ``length`` tokens none of which is protected."""
    schedule = PruneSchedule.none() if keep == 1 else PruneSchedule.for_depth(layers, keep)
    return layer_tokens(schedule, layers, np.zeros(length, np.bool_))
