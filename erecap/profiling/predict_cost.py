"""A cost model of a machine that is not there: its prices are fitted to predictions instead of measurements.

The clock of closed loops reads it (`--clock-source model:FILE`). A latency budget refuses it, because no model has its checksum.
"""

from collections.abc import Sequence
from dataclasses import replace

from erecap.calibration.cost_fit import Measurement, fit_cost_model
from erecap.calibration.cost_model import CostModel, Setting
from erecap.calibration.cost_points import Point, cost_points
from erecap.calibration.paper_fit import predict_captured_step_s, predict_prefill_s, predict_step_s
from erecap.calibration.paper_machine import Machine
from erecap.calibration.paper_model import ModelWork
from erecap.schedule.search import stage_sets

ANSWER_TOKENS = 16
NO_WEIGHTS = "none"
"""In place of the checksum of a model that exists as a shape only."""


def predicted_cost(machine: Machine, work: ModelWork, setting: Setting, lengths: Sequence[int], captured: bool) -> CostModel:
    """Fit a cost model to what the paper model predicts for one device.

    The points are those of ``erecap calibrate --cost``. ``error_p50`` and ``error_max`` are errors of the fit against predictions,
    so the errors of the predictions come on top of them.

    Parameters
    ----------
    machine
        The machine.
    work
        What the model computes.
    setting
        What the prices are for.
    lengths
        Prompt lengths in tokens, at least two different ones.
    captured
        Whether decode steps are captured as CUDA graphs; otherwise the host launches their kernels, as the engine does.

    Raises
    ------
    ValueError
        For fewer than two lengths.
    """
    if len(set(lengths)) < 2:
        raise ValueError(f"lengths={list(lengths)}: a cost model needs at least two prompt lengths, such as --lengths 1024,8192")
    points = cost_points(lengths, stage_sets(work.layers, None))
    fit, held_out = ([_predict(machine, work, p, captured) for p in points if p.held_out == flag] for flag in (False, True))
    return replace(fit_cost_model(setting, ANSWER_TOKENS, fit, held_out), basis=_basis(machine, captured))


def _predict(machine: Machine, work: ModelWork, point: Point, captured: bool) -> Measurement:
    entered, step_s = point.layer_tokens(work.layers), predict_captured_step_s if captured else predict_step_s
    cached = ([tokens + step for tokens in entered] for step in range(1, ANSWER_TOKENS))
    return Measurement(entered, (predict_prefill_s(machine, work, entered),), (sum(step_s(machine, work, c) for c in cached),))


def _basis(machine: Machine, captured: bool) -> str:
    reached = machine.efficiency
    steps = "captured as a CUDA graph" if captured else "launched by the host"
    return (
        f"PREDICTED, not measured, for one {machine.name}: efficiencies of prefills {reached.basis} ({reached.source}), of decode "
        f"steps {reached.step_basis} ({reached.step_source}); decode steps {steps}"
    )
