"""What a cost model is fitted to: whole answers to random prompts of several lengths, under several schedules, timed in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import sqrt
from time import perf_counter

import numpy as np
from transformers import PreTrainedModel

from benchmarks.micro.prefill import random_prompt
from benchmarks.micro.timing import in_turn
from erecap.calibration.cost_fit import Measurement, fit_cost_model
from erecap.calibration.cost_model import CostModel, Setting
from erecap.calibration.search import stage_sets
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import prefill
from erecap.models.device import synchronize
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.schedule.schedule import PruneSchedule, layer_tokens
from erecap.selectors import Selector, SelectorContext, make_selector

_FIT_KEEPS, _JUDGE_KEEPS = (0.7, 0.4), (0.85, 0.55)


@dataclass(frozen=True)
class Workload:
    """What is timed: answers of ``answer_tokens`` tokens to prompts of ``lengths``, in ``rounds`` in which all take turns."""

    lengths: tuple[int, ...]
    answer_tokens: int
    rounds: int

    def __post_init__(self) -> None:
        if len(set(self.lengths)) < 2 or self.rounds < 1 or self.answer_tokens < 2:
            raise ValueError(
                f"lengths={list(self.lengths)}, rounds={self.rounds}, answer_tokens={self.answer_tokens}: a cost model needs at "
                "least two lengths, one round, and answers of two tokens"
            )


@dataclass(frozen=True)
class Point:
    """A prompt of ``tokens`` tokens under ``schedule``; ``held_out`` from the fit to judge it by."""

    tokens: int
    schedule: PruneSchedule
    held_out: bool


@dataclass(frozen=True)
class Calibration:
    """A cost model and what it was made from."""

    model: CostModel
    measured: dict[Point, Measurement]


def calibrate_cost(
    loaded: LoadedModel,
    workload: Workload,
    selector: str = "learned",
    pruner: TokenPruner | None = None,
    on_round: Callable[[], None] = lambda: None,
) -> Calibration:
    """Time ``workload`` and fit a cost model to the medians over its rounds.

    Lengths between those given, under other keep ratios, are measured in the same rounds and held out to judge the fit by. All
    points take turns, so that a machine that slows down slows all of them; ``on_round`` is called after every round, those of the
    warm-up, which are left out, included. Raises ``ValueError`` as ``prefill`` and ``make_selector`` do.
    """
    tokens, stages = workload.answer_tokens, pruner.stages if pruner else None
    context = SelectorContext(PruneSchedule.none(), pruner, model=loaded.model)
    calls = {
        point: partial(_answer, loaded.model, point, _bound(selector, context, point.schedule), tokens)
        for point in _points(sorted(set(workload.lengths)), stage_sets(loaded.identity.num_layers, stages))
    }
    measured = {point: _measurement(point, spent, loaded) for point, spent in in_turn(calls, workload.rounds, on_round).items()}
    fitted, held_out = ([m for point, m in measured.items() if point.held_out == flag] for flag in (False, True))
    return Calibration(fit_cost_model(Setting.of(loaded, selector), tokens, fitted, held_out), measured)


def _points(lengths: Sequence[int], sets: Sequence[Sequence[int]]) -> list[Point]:
    """The given lengths to fit to; their geometric means, under other ratios, to judge by."""
    between = [round(sqrt(a * b)) for a, b in pairwise(lengths)]
    fit = [
        Point(tokens, schedule, False)
        for tokens in lengths
        for schedule in _schedules(_FIT_KEEPS, [*sets, *(layers[::2] for layers in sets[:1])])
    ]
    return fit + [Point(tokens, schedule, True) for tokens in between for schedule in _schedules(_JUDGE_KEEPS, sets)]


def _schedules(keeps: Sequence[float], sets: Sequence[Sequence[int]]) -> list[PruneSchedule]:
    """No pruning, and all sets of stages under all ratios.

    The fit needs sets of different sizes: were their number always the same, a stage's price could not be told from the overhead.
    """
    pruned = [PruneSchedule.after(layers, keep) for layers in sets for keep in keeps]
    return [PruneSchedule.none(), *pruned]


def _bound(selector: str, context: SelectorContext, schedule: PruneSchedule) -> Selector:
    return make_selector(selector, replace(context, schedule=schedule))


def _answer(model: PreTrainedModel, point: Point, selector: Selector, answer_tokens: int) -> tuple[float, float]:
    """Seconds to the first token known, and from there to the last."""
    prompt = random_prompt(model, point.tokens)
    synchronize(model.device)
    start = perf_counter()
    tokens = decode(model, prefill(model, prompt, point.schedule, selector), DecodeOptions(answer_tokens, ignore_eos=True))
    next(tokens)
    first = perf_counter()
    for _ in tokens:
        pass
    return first - start, perf_counter() - first


def _measurement(point: Point, spent: Sequence[tuple[float, float]], loaded: LoadedModel) -> Measurement:
    entered = layer_tokens(point.schedule, loaded.identity.num_layers, np.zeros(point.tokens, np.bool_))
    return Measurement(entered, tuple(ttft for ttft, _ in spent), tuple(rest for _, rest in spent))
