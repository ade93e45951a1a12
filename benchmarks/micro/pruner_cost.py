"""The cost of pruning itself within a prefill: scoring, selecting and dropping tokens, as shares of the prefill's time.

The engine's code stays as it is: a wrapped selector and a wrapped stream read the clock when they are called. Each reading waits
for the device, which slows a long prefill by less than a percent. So the shares are measured in prefills of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from benchmarks.micro.timing import in_turn
from erecap.engine.layout import lay_out
from erecap.engine.prefill import enter, run_layers
from erecap.engine.selector_protocol import PreparedSelector, Selector
from erecap.engine.stream import Stream, Survivors
from erecap.models.architecture import decoder_parts
from erecap.models.device import synchronize
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule


@dataclass(frozen=True)
class PrunerCost:
    """The shares of pruning in the time of a pruned prefill; 0.01 is 1%.

    Attributes
    ----------
    scoring
        Share of the selector's scoring.
    selection
        Share of choosing the survivors from the scores.
    dropping
        Share of gathering the survivors.
    """

    scoring: float
    selection: float
    dropping: float

    @property
    def total(self) -> float:
        """Sum of the three shares, 0..1."""
        return self.scoring + self.selection + self.dropping


class _Clock:
    """A stopwatch that adds the seconds since its last reading to the total of a name."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.spent = device, dict.fromkeys(("scoring", "selection", "dropping"), 0.0)
        self.last = self.now()

    def now(self) -> float:
        synchronize(self.device)
        return perf_counter()

    def start(self) -> None:
        self.last = self.now()

    def stop(self, name: str) -> None:
        before, self.last = self.last, self.now()
        self.spent[name] += self.last - before


class _TimedSelector:
    def __init__(self, selector: Selector, clock: _Clock) -> None:
        self.selector, self.clock = selector, clock

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        self.clock.start()
        scores = self.selector.score(hidden, positions, stage_index, lengths)
        self.clock.stop("scoring")
        return scores


class _TimedPreparedSelector(_TimedSelector):
    selector: PreparedSelector

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        self.clock.start()
        self.selector.prepare(ids, lengths)
        self.clock.stop("scoring")


class _TimedStream(Stream):
    clock: _Clock

    def keep(self, left: Survivors) -> None:
        """Drop tokens. The time between the stage's scores and this call is that of selection."""
        self.clock.stop("selection")
        super().keep(left)
        self.clock.stop("dropping")


def measure_pruner_cost(
    model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector, rounds: int = 9
) -> PrunerCost:
    """Measure the cost of pruning one prompt.

    Parameters
    ----------
    model
        The model.
    prompt
        The prompt that each prefill runs.
    schedule
        Where tokens are dropped and how many.
    selector
        Scores the tokens.
    rounds
        Number of timed prefills, besides the warm-up.

    Returns
    -------
    PrunerCost
        The median of each share over the rounds.
    """
    costs = in_turn({"pruned": lambda: _one(model, prompt, schedule, selector)}, rounds)["pruned"]
    return PrunerCost(*(median(getattr(cost, field.name) for cost in costs) for field in fields(PrunerCost)))


@torch.inference_mode()
def _one(model: PreTrainedModel, prompt: TokenizedPrompt, schedule: PruneSchedule, selector: Selector) -> PrunerCost:
    parts, layout, cache = decoder_parts(model), lay_out([prompt], schedule, model.device), DynamicCache(config=model.config)
    clock = _Clock(model.device)
    begin = clock.now()
    entered = enter(parts, layout, parts.embed(layout.ids))
    stream = _TimedStream(**{field.name: getattr(entered, field.name) for field in fields(Stream)})
    stream.clock = clock
    timed = _TimedPreparedSelector if isinstance(selector, PreparedSelector) else _TimedSelector
    run_layers(parts, stream, cache, layout, timed(selector, clock))
    parts.head(parts.norm(stream.hidden[:, -1]))
    whole = clock.now() - begin
    return PrunerCost(**{name: seconds / whole for name, seconds in clock.spent.items()})
