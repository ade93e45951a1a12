"""What a prediction starts from: a machine, with rates and efficiencies from result files where they are given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from erecap.calibration.paper_fit import MeasuredPrefill, MeasuredStep, fit_prefill, fit_steps
from erecap.calibration.paper_machine import Link, Machine, Rate
from erecap.calibration.paper_model import ModelWork, Parallel, Split
from erecap.profiling.layer_counts import tokens_by_layer
from erecap.profiling.results import Row, measured_points, read_result

CAPTURED = "graph-flash"
"""Decoder whose steps show how fast memory is read: the fastest one that is captured as a CUDA graph."""


@dataclass(frozen=True, eq=False)
class MeasuredFile:
    """A result file to calibrate with or to compare with.

    Attributes
    ----------
    path
        The file.
    content
        What it holds.
    """

    path: Path
    content: Row

    @classmethod
    def read(cls, path: Path, kinds: Sequence[str]) -> "MeasuredFile":
        """Read a result file. Raise ``ValueError`` where it is none, or of a kind that is not in ``kinds``."""
        content = read_result(path)
        if content.get("kind") not in kinds:
            raise ValueError(f"{path} is a result of {content.get('kind')!r}: give one of {', '.join(kinds)}")
        return cls(path, content)

    @property
    def split(self) -> Split:
        """How the model was spread over devices."""
        parallel: Parallel = self.content.get("parallel", "single")
        return Split(parallel, int(self.content.get("devices", 1)))

    def points(self) -> list[Row]:
        """Return the points that were measured."""
        return measured_points(self.content["points"])

    def prefills(self, layers: int) -> list[tuple[Row, MeasuredPrefill]]:
        """Return each measured prefill of a model of ``layers`` layers with its point."""
        self._check_layers(layers)
        return [
            (point, MeasuredPrefill(_tokens(point, layers), point["median_ttft_ms"] / 1e3))
            for point in self.points()
            if self.content["kind"] in ("prefill", "stated")
        ]

    def steps(self, layers: int) -> list[tuple[Row, MeasuredStep]]:
        """Return the decode steps, launched (``eager``) and captured, of a model of ``layers`` layers with their points."""
        self._check_layers(layers)
        return [
            (point, MeasuredStep(_tokens(point, layers), point["median_tpot_ms"] / 1e3, point["decoder"] == CAPTURED))
            for point in self.points()
            if self.content["kind"] == "generate" and point["decoder"] in ("eager", CAPTURED)
        ]

    def _check_layers(self, layers: int) -> None:
        own = self.content["model"]["num_hidden_layers"]
        if own != layers:
            raise ValueError(
                f"{self.path} was measured with a model of {own} layers ({self.content['model']['model_id']}), this one has "
                f"{layers}: name the model of the file with --shape or --model"
            )


def _tokens(point: Row, layers: int) -> tuple[int, ...]:
    counts = point.get("layer_tokens")
    return tuple(counts) if counts else tokens_by_layer(point["prompt_tokens"], point["keep"], layers)


def with_rates(machine: Machine, path: Path) -> Machine:
    """Put what the result file ``path`` measured in the place of the machine's rates.

    ``rates`` gives matrix products and memory, ``comm`` the connection and the number of devices, ``prefill`` and ``generate`` the
    rate that they measured beside.

    Raises
    ------
    ValueError
        For a file of another kind, or one that holds no rate.
    """
    found = MeasuredFile.read(path, ("rates", "comm", "prefill", "generate"))
    content = found.content
    if content["kind"] == "comm":
        return _with_link(machine, found)
    rows: list[Row] = [*content["points"], content.get("rates", {})]
    fields = {"matmul_flops_per_s": "matrix_flops_per_s", "copy_bytes_per_s": "memory_bytes_per_s"}
    rates = {ours: Rate(row[name], "measured", str(path)) for name, ours in fields.items() for row in rows if name in row}
    if not rates:
        raise ValueError(f"{path} holds no rate: measure with `python -m erecap.profiling rates --out FILE`")
    memory = content["machine"].get("gpu", {}).get("total_bytes", None)
    named: dict[str, Any] = {"name": content["machine"]["device_name"], "memory_bytes": memory, **rates}
    return replace(machine if machine.name == named["name"] else _carried_over(machine), **named)


def _carried_over(machine: Machine) -> Machine:
    """Mark link and efficiencies as those of ``machine``, for another one that they have not been measured on."""
    source = f"{machine.name}: measure it with `comm`, or fit it with --calibrate"
    link = {name: replace(rate, basis="carried over", source=source) for name, rate in vars(machine.link).items()}
    efficiency = replace(
        machine.efficiency, basis="carried over", source=source, step_basis="carried over", step_source=source,
        median_error=None, largest_error=None,
    )  # fmt: skip
    return replace(machine, link=Link(**link), efficiency=efficiency)


def _with_link(machine: Machine, found: MeasuredFile) -> Machine:
    sends = [point for point in found.points() if point["test"] == "send"]
    sums = [point for point in found.points() if point["test"] == "all_reduce"]
    if not sends or not sums:
        raise ValueError(f"{found.path} holds no sends and all-reduces between devices: measure with two devices or processes")
    largest, smallest = max(point["size_bytes"] for point in sends), min(point["size_bytes"] for point in sends)

    def rate(value: float) -> Rate:
        return Rate(value, "measured", str(found.path))

    link = Link(
        bytes_per_s=rate(median(point["bandwidth_bytes_per_s"] for point in sends if point["size_bytes"] == largest)),
        latency_s=rate(median(point["median_time_us"] for point in sends if point["size_bytes"] == smallest) * 1e-6),
        bus_bytes_per_s=rate(max(sums, key=lambda point: int(point["size_bytes"]))["busbw_bytes_per_s"]),
        all_reduce_s=rate(min(sums, key=lambda point: int(point["size_bytes"]))["median_time_us"] * 1e-6),
    )
    return replace(machine, link=link, devices=sums[0]["processes"])


def calibrated(machine: Machine, work: ModelWork, files: Sequence[MeasuredFile]) -> Machine:
    """Fit the machine's efficiencies to what ``files`` measured on one device. What they do not show stays as it is."""
    single = [found for found in files if found.split.devices == 1]
    steps = {found: [step for _, step in found.steps(work.layers)] for found in single}
    if any(steps.values()):
        machine = replace(machine, efficiency=fit_steps(machine, work, _flat(steps), _sources(steps)))
    prefills = {found: [prefill for _, prefill in found.prefills(work.layers)] for found in single}
    if any(prefills.values()):
        basis = "stated" if any(found.content["kind"] == "stated" for found in single) else "measured"
        machine = replace(machine, efficiency=fit_prefill(machine, work, _flat(prefills), _sources(prefills), basis))
    return machine


Measured = TypeVar("Measured", MeasuredPrefill, MeasuredStep)


def _flat(by_file: Mapping[MeasuredFile, list[Measured]]) -> list[Measured]:
    return [point for points in by_file.values() for point in points]


def _sources(by_file: Mapping[MeasuredFile, list[Measured]]) -> str:
    return ", ".join(str(found.path) for found, points in by_file.items() if points)


Override = Callable[[Machine, Rate], Machine]
OVERRIDES: dict[str, Override] = {
    "--matrix": lambda machine, rate: replace(machine, matrix_flops_per_s=rate),
    "--memory": lambda machine, rate: replace(machine, memory_bytes_per_s=rate),
    "--link": lambda machine, rate: replace(machine, link=replace(machine.link, bytes_per_s=rate, bus_bytes_per_s=rate)),
    "--bus": lambda machine, rate: replace(machine, link=replace(machine.link, bus_bytes_per_s=rate)),
    "--latency": lambda machine, rate: replace(machine, link=replace(machine.link, latency_s=rate, all_reduce_s=rate)),
}
"""What each option puts in the place of a machine's figure. ``--link`` alone also sets the bus bandwidth."""


def overridden(machine: Machine, given: dict[str, float | None]) -> Machine:
    """Apply the options of ``OVERRIDES`` that were given, by name and value."""
    for option, override in OVERRIDES.items():
        value = given.get(option)
        if value is not None:
            machine = override(machine, Rate(value, "given", f"option {option}"))
    return machine
