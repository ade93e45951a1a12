"""Measurements for a cost model: answers to random prompts of several lengths under several schedules, timed in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

from transformers import PreTrainedModel

from benchmarks.micro.timing import in_turn
from erecap.calibration.cost_fit import Measurement, fit_cost_model
from erecap.calibration.cost_model import CostModel, Setting
from erecap.calibration.cost_points import Point, cost_points
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import prefill
from erecap.models.device import synchronize
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.profiling.shapes import make_random_prompt
from erecap.schedule import PruneSchedule
from erecap.schedule.search import stage_sets
from erecap.selectors import Selector, SelectorContext, make_selector


@dataclass(frozen=True)
class Workload:
    """The prompts and answers that are timed.

    Attributes
    ----------
    lengths
        Prompt lengths to fit to, in tokens; at least two different ones.
    answer_tokens
        Tokens of each answer, at least 2.
    rounds
        Number of rounds; each times every prompt under every schedule once.
    """

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
class CostCalibration:
    """A cost model and its measurements.

    Attributes
    ----------
    model
        The fitted cost model.
    measured
        Times of each point, held-out points included.
    """

    model: CostModel
    measured: dict[Point, Measurement]


def calibrate_cost(
    loaded: LoadedModel,
    workload: Workload,
    selector: str = "learned",
    pruner: TokenPruner | None = None,
    on_round: Callable[[], None] = lambda: None,
) -> CostCalibration:
    """Time a workload and fit a cost model to the medians over its rounds.

    Held-out points, to measure the error of the fit, have lengths between the given ones and other keep ratios. They are timed in
    the same rounds. All points take turns, so a machine that slows down slows all of them.

    Parameters
    ----------
    loaded
        The model.
    workload
        Prompt lengths, answer length and rounds.
    selector
        Name of the selector that scores tokens.
    pruner
        The pruner, for selectors that use one.
    on_round
        Called after every round, warm-up included.

    Raises
    ------
    ValueError
        For the reasons of ``prefill`` and ``make_selector``.
    """
    tokens, stages = workload.answer_tokens, pruner.stages if pruner else None
    context = SelectorContext(PruneSchedule.none(), pruner, model=loaded.model)
    calls = {
        point: partial(_answer, loaded.model, point, _selector_for(selector, context, point.schedule), tokens)
        for point in cost_points(workload.lengths, stage_sets(loaded.identity.num_layers, stages))
    }
    measured = {point: _measurement(point, spent, loaded) for point, spent in in_turn(calls, workload.rounds, on_round).items()}
    fitted, held_out = ([m for point, m in measured.items() if point.held_out == flag] for flag in (False, True))
    return CostCalibration(fit_cost_model(Setting.of(loaded, selector), tokens, fitted, held_out), measured)


def _selector_for(selector: str, context: SelectorContext, schedule: PruneSchedule) -> Selector:
    return make_selector(selector, replace(context, schedule=schedule))


def _answer(model: PreTrainedModel, point: Point, selector: Selector, answer_tokens: int) -> tuple[float, float]:
    """Answer once; return seconds to the first token, and from there to the last."""
    prompt = make_random_prompt(model, point.tokens)
    synchronize(model.device)
    start = perf_counter()
    tokens = decode(model, prefill(model, prompt, point.schedule, selector), DecodeOptions(answer_tokens, ignore_eos=True))
    next(tokens)
    first = perf_counter()
    for _ in tokens:
        pass
    return first - start, perf_counter() - first


def _measurement(point: Point, spent: Sequence[tuple[float, float]], loaded: LoadedModel) -> Measurement:
    entered = point.layer_tokens(loaded.identity.num_layers)
    return Measurement(entered, tuple(ttft for ttft, _ in spent), tuple(rest for _, rest in spent))
