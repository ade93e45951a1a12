"""The cost of pruning itself within a prefill: scoring, selecting and dropping tokens, as shares of the prefill's time.

The engine's code stays as it is: a wrapped selector, a wrapped stream and hooks on the decoder layers record the time of each
call. On a GPU these records are CUDA events, so the host does not wait. On several devices it waits for all of them at each record.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.layout import lay_out
from erecap.engine.prefill import enter, run_layers
from erecap.engine.stream import Stream, Survivors
from erecap.models.architecture import decoder_parts
from erecap.models.device import synchronize
from erecap.models.kv_cache import make_cache
from erecap.models.row_sizes import row_sizes
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.selectors import PreparedSelector, Selector


@dataclass(frozen=True)
class StageCost:
    """Shares of a pruned prefill's time; 0.01 is 1%.

    Attributes
    ----------
    scoring
        Share of the selector.
    selecting
        Share of choosing the survivors from the scores.
    dropping
        Share of gathering the survivors.
    """

    scoring: float
    selecting: float
    dropping: float


class _Marks:
    """Named points in time, in the order in which they were taken."""

    def __init__(self, devices: Collection[torch.device]) -> None:
        self._devices, self._taken, self._held = devices, list[tuple[str, Any]](), False
        self._by_events = len(devices) == 1 and next(iter(devices)).type == "cuda"

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Take the mark ``name`` and none until the end: a selector may run the model's layers itself."""
        self.take(name)
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def take(self, name: str) -> None:
        if self._held:
            return
        if self._by_events:
            moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
            self._taken.append((name, moment))
        else:
            self._wait()
            self._taken.append((name, perf_counter()))

    def spans(self) -> Iterator[tuple[str, float]]:
        """Yield each mark's name and the seconds to the next mark."""
        self._wait()
        for (name, start), (_, end) in zip(self._taken, self._taken[1:], strict=False):
            yield name, start.elapsed_time(end) / 1e3 if self._by_events else end - start

    def _wait(self) -> None:
        for device in self._devices:
            synchronize(device)


class _MarkedSelector:
    """A selector that marks the begin and the end of scoring."""

    def __init__(self, selector: Selector, marks: _Marks) -> None:
        self._selector, self._marks = selector, marks

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """See ``Selector.score``."""
        with self._marks.held("scoring"):
            scores = self._selector.score(hidden, positions, stage_index, lengths)
        self._marks.take("selecting")
        return scores


class _MarkedPreparedSelector(_MarkedSelector):
    """The same for a selector that sees the whole prompts first."""

    _selector: PreparedSelector

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        """See ``PreparedSelector.prepare``."""
        with self._marks.held("scoring"):
            self._selector.prepare(ids, lengths)
        self._marks.take("layers")


class _MarkedStream(Stream):
    """A stream that marks the begin of dropping. The next layer marks its end."""

    marks: _Marks

    def keep(self, left: Survivors) -> None:
        """See ``Stream.keep``."""
        self.marks.take("dropping")
        super().keep(left)


def measure_stage_cost(
    model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector, rounds: int = 3
) -> StageCost:
    """Measure the median shares over ``rounds`` prefills of ``prompt``. Run the prompt once before, as a warm-up."""
    costs = [_one_cost(model, prompt, schedule, selector) for _ in range(rounds)]
    return StageCost(*(median(getattr(cost, field.name) for cost in costs) for field in fields(StageCost)))


@torch.inference_mode()
def _one_cost(model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector) -> StageCost:
    parts = decoder_parts(model)
    marks = _Marks(set(parts.places))
    for device in set(parts.places):
        synchronize(device)
    marks.take("layers")
    layout = lay_out([prompt], schedule, parts.entry, row_sizes(parts.entry, model.dtype))
    entered = enter(parts, layout, parts.embed(layout.ids))
    stream = _MarkedStream(**{field.name: getattr(entered, field.name) for field in fields(Stream)})
    stream.marks = marks
    marked = _MarkedPreparedSelector if isinstance(selector, PreparedSelector) else _MarkedSelector
    with _layers_marked(model, schedule, marks):
        run_layers(parts, stream, make_cache(model.config), layout, marked(selector, marks))
        parts.head(parts.norm(stream.hidden[:, -1]))
    marks.take("end")
    spent = dict.fromkeys(("layers", *(field.name for field in fields(StageCost))), 0.0)
    for name, seconds in marks.spans():
        spent[name] += seconds
    whole = sum(spent.values())
    return StageCost(**{field.name: spent[field.name] / whole for field in fields(StageCost)})


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
