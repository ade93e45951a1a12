"""The measurement ``predict`` on the command line: its options, and how they become a machine, a model and a plan."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from erecap.calibration.cost_model import CostModel, Setting
from erecap.calibration.machines import MACHINES, named_machine
from erecap.calibration.paper_machine import Machine
from erecap.calibration.paper_model import ModelWork
from erecap.models.device import dtype_name
from erecap.models.identity import ModelIdentity
from erecap.profiling.predict_cost import NO_WEIGHTS, predicted_cost
from erecap.profiling.predict_inputs import MeasuredFile, calibrated, overridden, with_rates
from erecap.profiling.predict_profile import PredictPlan, choose_splits, error_rows, profile_predict
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.units import parse_byte_rate, parse_flop_rate, parse_seconds

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
SHAPE = "qwen2-7b"
CALIBRATING = ("prefill", "generate", "stated")
"""Kinds of result files that a prediction can be calibrated with or compared with."""

_QUANTITIES: dict[str, tuple[str, Callable[[str], float], str]] = {
    "--matrix": ("277TFLOP/s", parse_flop_rate, "rate of matrix products on one device"),
    "--memory": ("960GB/s", parse_byte_rate, "bandwidth of one device's memory"),
    "--link": ("12GB/s", parse_byte_rate, "bandwidth between two devices, one way; also that of all-reduces unless --bus is given"),
    "--bus": ("12.34GB/s", parse_byte_rate, "bus bandwidth of all-reduces, as nccl-tests and `comm` give it"),
    "--latency": ("40us", parse_seconds, "time of the smallest message, and of the smallest all-reduce"),
}
"""Options that replace a figure of the machine: an example, the reader, and the help."""


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``predict`` that other measurements do not have."""
    parser.add_argument("--machine", default="8xh200", help=f"machine that is built in: {', '.join(MACHINES)} (8xh200)")
    parser.add_argument("--gpus", type=int, help="number of devices; by default the machine's")
    for option, (example, _, text) in _QUANTITIES.items():
        parser.add_argument(option, metavar=example, help=text)
    parser.add_argument(
        "--parallel", help="pipeline, tensor or both with a comma; by default both, tensor over as many devices as the heads allow"
    )
    parser.add_argument("--rates", type=Path, nargs="+", default=[], metavar="FILE", help="results of `rates` and `comm`")
    parser.add_argument(
        "--calibrate", type=Path, nargs="+", default=[], metavar="FILE",
        help="results of `prefill` and `generate` to fit the efficiencies to; the errors of the fit are printed",
    )  # fmt: skip
    parser.add_argument(
        "--cost-out", type=Path, metavar="FILE",
        help="also write a cost model of one device, for `--clock-source model:FILE`, fitted to the predictions at --lengths",
    )  # fmt: skip
    parser.add_argument(
        "--captured", action="store_true",
        help="price the cost model's decode steps as captured in CUDA graphs; otherwise the host launches them, as the engine does",
    )  # fmt: skip
    parser.add_argument("--compare", type=Path, nargs="+", default=[], metavar="FILE", help="further results to state errors for")


@dataclass(frozen=True)
class Prediction:
    """What is to be predicted, for which machine, and what the model is held against.

    Attributes
    ----------
    machine
        The machine with all options applied.
    work
        The model.
    plan
        The cases.
    files
        Measured results to state errors against.
    remarks
        What does not fit, in words.
    """

    machine: Machine
    work: ModelWork
    plan: PredictPlan
    files: Sequence[MeasuredFile]
    remarks: Sequence[str]

    @classmethod
    def of(cls, args: argparse.Namespace, config: PretrainedConfig, dtype: torch.dtype) -> "Prediction":
        """Read the options ``args`` for a model of ``config`` in ``dtype``. Raise ``ValueError`` for what cannot be."""
        if args.captured and args.cost_out is None:
            raise ValueError("--captured changes the prices of a cost model only: add --cost-out FILE, or leave it out")
        machine = named_machine(args.machine)
        work = ModelWork.of(config, dtype.itemsize)
        for path in args.rates:
            machine = with_rates(machine, path)
        machine = overridden(machine, {option: _quantity(args, option) for option in _QUANTITIES})
        calibrating = [MeasuredFile.read(path, CALIBRATING) for path in args.calibrate]
        machine = calibrated(machine, work, calibrating)
        splits, remarks = choose_splits(work, args.gpus or machine.devices, _parallel(args.parallel))
        compared = [MeasuredFile.read(path, CALIBRATING) for path in args.compare]
        plan = PredictPlan(args.lengths or LENGTHS, args.keeps, splits)
        return cls(machine, work, plan, [*calibrating, *compared], remarks)

    @property
    def devices(self) -> int:
        """Most devices that a case uses."""
        return max(split.devices for split in self.plan.splits)

    def facts(self) -> Row:
        """Return the facts of the result file: the machine with the source of every figure, and the errors of the model."""
        return {
            "prediction": "every time in this file is a prediction, not a measurement",
            "rates": asdict(self.machine),
            "remarks": list(self.remarks),
            "errors": error_rows(self.machine, self.work, self.files),
        }

    def run(self, file: ResultFile) -> None:
        """Predict all cases."""
        profile_predict(self.machine, self.work, self.plan, file)

    def cost_model(self, name: str, config: PretrainedConfig, dtype: torch.dtype, captured: bool) -> CostModel:
        """Make the cost model of one device, for the model called ``name`` of ``config`` in ``dtype``."""
        identity = ModelIdentity(name, NO_WEIGHTS, self.work.layers, config.hidden_size)
        setting = Setting(identity, "learned", self.machine.name, dtype_name(dtype), 0, "")
        return predicted_cost(self.machine, self.work, setting, self.plan.lengths, captured)


def _quantity(args: argparse.Namespace, option: str) -> float | None:
    text = getattr(args, option.removeprefix("--"))
    if text is None:
        return None
    try:
        return _QUANTITIES[option][1](text)
    except ValueError as error:
        raise ValueError(f"{option} {error}") from error


def _parallel(text: str | None) -> list[str]:
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in ("pipeline", "tensor")]
    if unknown:
        raise ValueError(f"--parallel {', '.join(unknown)} is not known: use pipeline, tensor or pipeline,tensor")
    return names


def rate_rows(content: Row) -> list[dict[str, Any]]:
    """Return the table of the machine's figures and their sources."""
    rates: Row = content["rates"]
    named = {
        "matrix TFLOP/s": (rates["matrix_flops_per_s"], 1e12),
        "memory GB/s": (rates["memory_bytes_per_s"], 1e9),
        "link GB/s": (rates["link"]["bytes_per_s"], 1e9),
        "link latency us": (rates["link"]["latency_s"], 1e-6),
        "all-reduce bus GB/s": (rates["link"]["bus_bytes_per_s"], 1e9),
        "all-reduce latency us": (rates["link"]["all_reduce_s"], 1e-6),
    }
    reached: Row = rates["efficiency"]
    parts = (
        ("linear", "matrices, share of matrix", 1.0, ""),
        ("attention", "attention, share of matrix", 1.0, ""),
        ("layer_s", "prefill, least us per layer", 1e6, ""),
        ("reading", "decode, share of memory", 1.0, "step_"),
        ("step_layer_s", "decode, least us per layer", 1e6, "step_"),
    )
    lines = [
        {"figure": name, "value": f"{rate['value'] / unit:.4g}", "basis": rate["basis"], "source": rate["source"]}
        for name, (rate, unit) in named.items()
    ]
    for field, name, scale, prefix in parts:
        source = {key: reached[prefix + key] for key in ("basis", "source")}
        lines.append({"figure": name, "value": f"{reached[field] * scale:.3g}", **source})
    return lines


def accuracy(content: Row) -> str:
    """Say in one sentence how far the model was off, where that is known."""
    errors = [abs(row["error"]) for row in content["errors"] if row["devices"] == 1]
    reached = content["rates"]["efficiency"]
    if errors:
        return f"{_accuracy(sorted(errors)[len(errors) // 2], max(errors))} on {len(errors)} measured figures of one device"
    if reached["median_error"] is None:
        return "the efficiencies were not held against a measurement of this machine"
    return f"{_accuracy(reached['median_error'], reached['largest_error'])} on the points of {reached['source']}"


def _accuracy(median: float, largest: float) -> str:
    return f"median error {median:.1%}, largest {largest:.1%}"
