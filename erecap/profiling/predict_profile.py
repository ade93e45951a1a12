"""Predictions of time and traffic on one device and on several, by prompt length and keep ratio, with the errors of the model.

Nothing is measured here: every time is a prediction of ``erecap.calibration.paper_model`` and is called so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from erecap.calibration.paper_fit import held_out_errors, predict_captured_step_s, predict_prefill_s, predict_step_s
from erecap.calibration.paper_machine import Machine
from erecap.calibration.paper_model import LayerTime, ModelWork, Split, head_s, prefill_flops, prefill_times, step_times
from erecap.profiling.layer_counts import tokens_by_layer
from erecap.profiling.predict_inputs import MeasuredFile
from erecap.profiling.results import ResultFile, Row, measured_points
from erecap.schedule import PruneSchedule

ONE = Split("single", 1)


@dataclass(frozen=True)
class PredictPlan:
    """What to predict.

    Attributes
    ----------
    lengths
        Prompt lengths in tokens.
    keeps
        Keep ratios; 1 is the baseline, which is added where it is missing.
    splits
        Ways to spread the model over devices; one device is always predicted too.
    """

    lengths: Sequence[int]
    keeps: Sequence[float]
    splits: Sequence[Split]


def choose_splits(work: ModelWork, devices: int, parallel: Sequence[str]) -> tuple[list[Split], list[str]]:
    """Choose how to spread a model over ``devices`` devices.

    Parameters
    ----------
    work
        The model.
    devices
        Number of devices.
    parallel
        ``pipeline`` and ``tensor``; empty for both, and then tensor parallel takes the largest number of devices that fits.

    Returns
    -------
    list of Split, list of str
        The ways, and remarks on what does not fit.

    Raises
    ------
    ValueError
        Where a way that was asked for does not fit the model.
    """
    if devices < 2:
        raise ValueError(f"--gpus {devices}: a prediction for several devices takes at least 2")
    if parallel:
        splits = [Split("tensor" if name == "tensor" else "pipeline", devices) for name in parallel]
        for split in splits:
            split.check(work)
        return splits, []
    pipeline, tensor = Split("pipeline", devices), Split("tensor", devices)
    pipeline.check(work)
    try:
        tensor.check(work)
    except ValueError as error:
        fitting = [count for count in range(2, devices) if work.kv_heads % count == 0 and work.heads % count == 0]
        smaller = [Split("tensor", fitting[-1])] if fitting else []
        return [pipeline, *smaller], [f"tensor parallel over {devices} devices: {error}"]
    return [pipeline, tensor], []


def profile_predict(machine: Machine, work: ModelWork, plan: PredictPlan, file: ResultFile) -> None:
    """Predict every case, and add one point each to ``file``.

    ``status`` says where the model does not fit into a device's memory. Otherwise it is ``ok`` and the point holds:

    - ``prompt_tokens``; ``keep``; ``parallel`` (``single``, ``pipeline``, ``tensor``); ``devices``; ``needed_bytes``, of one of
      them; ``prefill_flops``, of all together, without scorers and logits
    - ``predicted_ttft_ms``, and its parts: ``predicted_compute_ms``, ``predicted_read_ms``, ``predicted_traffic_ms``; the first two
      overlap, and neither contains the least times of layers
    - ``predicted_tpot_ms``, per further token as the engine decodes; ``predicted_captured_tpot_ms``, were the step captured as a
      CUDA graph; ``predicted_step_traffic_ms``
    - ``prefill_traffic_bytes``, ``step_traffic_bytes``: bytes over all boundaries (pipeline), or that each device sends (tensor)
    - ``predicted_speedup_over_single``: TTFT of one device with the same keep ratio / TTFT;
      ``predicted_speedup_over_single_baseline``: of one device without pruning;
      ``predicted_speedup_over_baseline``: of the same devices without pruning; ``None`` where those do not fit
    - ``stages``: for the layers between two stages of the schedule ``layers``, ``tokens`` and the same parts
    """
    keeps = list(dict.fromkeys([1.0, *plan.keeps]))
    for length in plan.lengths:
        made: dict[tuple[Split, float], Row] = {}
        for split in dict.fromkeys([ONE, *plan.splits]):
            for keep in keeps:
                made[split, keep] = _point(machine, work, split, length, keep)
        for (split, keep), point in made.items():
            if point["status"] == "ok":
                point |= {
                    f"predicted_speedup_over_{name}": _ratio(made[base], point)
                    for name, base in (("single", (ONE, keep)), ("single_baseline", (ONE, 1.0)), ("baseline", (split, 1.0)))
                }
            file.add(_rounded(point))


def _rounded(value: Any) -> Any:
    """Round all numbers to six digits: a prediction is not better than that, and files stay small."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _ratio(base: Row, own: Row) -> float | None:
    return base["predicted_ttft_ms"] / own["predicted_ttft_ms"] if base["status"] == "ok" else None


def _point(machine: Machine, work: ModelWork, split: Split, length: int, keep: float) -> Row:
    tokens = tokens_by_layer(length, keep, work.layers)
    needed, flops = split.needed_bytes(work, tokens), prefill_flops(work, tokens)
    point: Row = {
        "prompt_tokens": length,
        "keep": keep,
        **asdict(split),
        "status": "ok",
        "needed_bytes": needed,
        "prefill_flops": flops,
    }
    if machine.memory_bytes is not None and needed > machine.memory_bytes:
        return point | {"status": f"does not fit: {needed / 1e9:.0f} GB on a device of {machine.memory_bytes / 1e9:.0f}"}
    layers, step = prefill_times(machine, work, split, tokens), step_times(machine, work, split, tokens)
    head_ms, step_traffic = head_s(machine, work, split) * 1e3, sum(layer.traffic_s for layer in step)
    return point | {
        "predicted_ttft_ms": predict_prefill_s(machine, work, tokens, split) * 1e3,
        **_parts(layers, head_ms),
        "predicted_tpot_ms": predict_step_s(machine, work, tokens, split) * 1e3,
        "predicted_captured_tpot_ms": predict_captured_step_s(machine, work, tokens, split) * 1e3,
        "predicted_step_traffic_ms": step_traffic * 1e3,
        "step_traffic_bytes": sum(layer.traffic_bytes for layer in step),
        "stages": [
            {"layers": f"{first}-{last - 1}", "tokens": tokens[first], **_parts(layers[first:last])}
            for first, last in _between_stages(work.layers)
        ],
    }


def _parts(layers: Sequence[LayerTime], head_ms: float = 0.0) -> Row:
    return {
        "predicted_compute_ms": sum(layer.compute_s for layer in layers) * 1e3,
        "predicted_read_ms": sum(layer.read_s for layer in layers) * 1e3 + head_ms,
        "predicted_busy_ms": sum(layer.busy_s for layer in layers) * 1e3 + head_ms,
        "predicted_traffic_ms": sum(layer.traffic_s for layer in layers) * 1e3,
        "prefill_traffic_bytes": sum(layer.traffic_bytes for layer in layers),
    }


def _between_stages(layers: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of the layers between two default stages; unpruned runs are cut at the same places."""
    stages = PruneSchedule.for_depth(layers, 0.5).layers
    yield from pairwise([0, *(layer + 1 for layer in stages), layers])


def error_rows(machine: Machine, work: ModelWork, files: Sequence[MeasuredFile]) -> list[Row]:
    """Hold the model against what ``files`` measured.

    Returns
    -------
    list of dict
        One per measured figure: ``file``, ``quantity`` (``ttft`` or ``tpot``), ``prompt_tokens``, ``keep``, ``parallel``,
        ``devices``, ``measured_ms``, ``predicted_ms`` and ``error``, predicted / measured - 1. On one device ``held_out_error`` is
        the error after a fit to the file's other lengths.
    """
    rows: list[Row] = []
    for found in files:
        prefills, split = found.prefills(work.layers), found.split
        split.check(work)
        held_out = held_out_errors(machine, work, [prefill for _, prefill in prefills]) if split == ONE else [None] * len(prefills)
        for (point, prefill), without in zip(prefills, held_out, strict=True):
            predicted = predict_prefill_s(machine, work, prefill.tokens, split)
            rows.append(_error(found, point, "ttft", prefill.seconds, predicted) | {"held_out_error": without})
        for point, step in found.steps(work.layers):
            predict = predict_captured_step_s if step.captured else predict_step_s
            predicted = predict(machine, work, step.tokens, split)
            rows.append(_error(found, point, f"tpot ({point['decoder']})", step.seconds, predicted))
    return rows


def _error(found: MeasuredFile, point: Row, quantity: str, measured_s: float, predicted_s: float) -> Row:
    return {
        "file": str(found.path),
        "quantity": quantity,
        "prompt_tokens": point["prompt_tokens"],
        "keep": point["keep"],
        **asdict(found.split),
        "measured_ms": measured_s * 1e3,
        "predicted_ms": predicted_s * 1e3,
        "error": predicted_s / measured_s - 1,
    }


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    short = {"tokens": point["prompt_tokens"], "keep": point["keep"], "devices": f"{point['parallel']} {point['devices']}"}
    if point["status"] != "ok":
        return short | {"status": point["status"]}
    return short | {
        "predicted ttft ms": f"{point['predicted_ttft_ms']:.1f}",
        "compute ms": f"{point['predicted_compute_ms']:.1f}",
        "read ms": f"{point['predicted_read_ms']:.1f}",
        "traffic ms": f"{point['predicted_traffic_ms']:.1f}",
        "traffic MB": f"{point['prefill_traffic_bytes'] / 1e6:.1f}",
        "over one": _times(point["predicted_speedup_over_single"]),
        "over one unpruned": _times(point["predicted_speedup_over_single_baseline"]),
        "over unpruned": _times(point["predicted_speedup_over_baseline"]),
        "predicted tpot ms": f"{point['predicted_tpot_ms']:.2f}",
        "captured ms": f"{point['predicted_captured_tpot_ms']:.2f}",
        "status": "ok",
    }


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def stage_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a table of the parts by stage, for the longest prompt: unpruned, and with the lowest keep ratio."""
    measured = measured_points(points)
    longest = max((point["prompt_tokens"] for point in measured), default=0)
    least = min((point["keep"] for point in measured), default=1.0)
    return [
        {
            "tokens": longest,
            "keep": point["keep"],
            "devices": f"{point['parallel']} {point['devices']}",
            "layers": stage["layers"],
            "entering": stage["tokens"],
            "compute ms": f"{stage['predicted_compute_ms']:.1f}",
            "read ms": f"{stage['predicted_read_ms']:.2f}",
            "traffic ms": f"{stage['predicted_traffic_ms']:.1f}",
            "traffic MB": f"{stage['prefill_traffic_bytes'] / 1e6:.1f}",
        }
        for point in measured
        if point["prompt_tokens"] == longest and point["keep"] in (1.0, least)
        for stage in point["stages"]
    ]


def error_table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table of ``error_rows``."""
    return [
        {
            "figure": row["quantity"],
            "tokens": row["prompt_tokens"],
            "keep": row["keep"],
            "devices": f"{row['parallel']} {row['devices']}",
            "measured ms": f"{row['measured_ms']:.1f}",
            "predicted ms": f"{row['predicted_ms']:.1f}",
            "error": f"{row['error']:+.1%}",
            "held out": "" if row.get("held_out_error") is None else f"{row['held_out_error']:+.1%}",
            "file": row["file"],
        }
        for row in rows
    ]
