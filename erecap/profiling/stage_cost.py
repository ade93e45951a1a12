"""The cost of pruning itself within a prefill: scoring, and selecting with gathering, as shares of the prefill's time.

The engine's code stays as it is: a wrapped selector and hooks on the decoder layers record the time of each call. On a GPU these
records are CUDA events, so the host does not wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.prefill import prefill
from erecap.models.device import synchronize
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.selectors import Selector


@dataclass(frozen=True)
class StageCost:
    """Shares of a pruned prefill's time; 0.01 is 1%.

    Attributes
    ----------
    scoring
        Share of the selector.
    selecting
        Share of choosing and gathering the survivors.
    """

    scoring: float
    selecting: float


class _Marks:
    """Named points in time, in the order in which they were taken."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._taken = device, list[tuple[str, Any]]()

    def take(self, name: str) -> None:
        if self._device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
            self._taken.append((name, moment))
        else:
            self._taken.append((name, perf_counter()))

    def spans(self) -> Iterator[tuple[str, float]]:
        """Yield each mark's name and the seconds to the next mark."""
        synchronize(self._device)
        for (name, start), (_, end) in zip(self._taken, self._taken[1:], strict=False):
            yield name, start.elapsed_time(end) / 1e3 if self._device.type == "cuda" else end - start


class MarkedSelector:
    """A selector that marks the begin and the end of scoring."""

    def __init__(self, selector: Selector, take: Any) -> None:
        self._selector, self._take = selector, take

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """See ``Selector.score``."""
        self._take("scoring")
        scores = self._selector.score(hidden, positions, stage_index, lengths)
        self._take("selecting")
        return scores


def measure_stage_cost(
    model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector, rounds: int = 3
) -> StageCost:
    """Measure the median shares over ``rounds`` prefills of ``prompt``. Run the prompt once before, as a warm-up."""
    costs = [_one_cost(model, prompt, schedule, selector) for _ in range(rounds)]
    return StageCost(median(cost.scoring for cost in costs), median(cost.selecting for cost in costs))


def _one_cost(model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector) -> StageCost:
    marks = _Marks(model.device)
    synchronize(model.device)
    marks.take("layers")
    with _layers_marked(model, schedule, marks):
        prefill(model, prompt, schedule, MarkedSelector(selector, marks.take))
    marks.take("end")
    spent = dict.fromkeys(("layers", "scoring", "selecting"), 0.0)
    for name, seconds in marks.spans():
        spent[name] += seconds
    whole = sum(spent.values())
    return StageCost(spent["scoring"] / whole, spent["selecting"] / whole)


@contextmanager
def _layers_marked(model: PreTrainedModel, schedule: PruneSchedule, marks: _Marks) -> Iterator[None]:
    """Mark the start of every layer that follows a stage."""
    parts: Any = model  # transformers' accessors are untyped
    decoder = parts.get_decoder()
    following = [decoder.layers[stage.after_layer + 1] for stage in schedule.stages]
    handles = [layer.register_forward_pre_hook(lambda *_: marks.take("layers")) for layer in following]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
