"""How much of a new prompt a session need not run again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def common_prefix(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Count the first token ids that two rows, int64 ``(n,)`` and ``(m,)``, have in common."""
    shorter = min(len(one), len(other))
    differ = one[:shorter] != other[:shorter]
    return int(differ.argmax()) if differ.any() else shorter


def whole_segments(ends: Sequence[int], others: Sequence[int], tokens: int) -> int:
    """Return the end of the last message that two prompts share, given their ends and their common first ``tokens`` tokens."""
    shared = 0
    for end, other in zip(ends, others, strict=False):
        if end != other or end > tokens:
            break
        shared = end
    return shared


def first_marked(mask: NDArray[np.bool_], default: int) -> int:
    """Return the index of the first true value of ``mask``, bool ``(n,)``, or ``default`` where there is none."""
    return int(mask.argmax()) if mask.any() else default
