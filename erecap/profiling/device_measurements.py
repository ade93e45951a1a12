"""The measurements of several devices on the command line: ``comm``, and ``predict``, which measures nothing."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from erecap.models.device import DTYPES, resolve_device
from erecap.profiling.comm_command import Communication
from erecap.profiling.comm_profile import matrix_rows
from erecap.profiling.environment import command_line, machine_facts, model_facts
from erecap.profiling.measurement import Measurement
from erecap.profiling.predict_command import SHAPE, Prediction, accuracy, rate_rows
from erecap.profiling.predict_profile import error_table, stage_rows
from erecap.profiling.results import ResultFile, Row, default_path

_SOFTWARE = ("python", "torch", "transformers", "numpy")


class DeviceMeasurement(Measurement, ABC):
    """A measurement that runs no model in this process."""

    @abstractmethod
    def measure(self) -> None:
        """Add all points to the file."""

    def finish(self) -> None:
        """Mark the file as complete."""
        self.file.finish()

    @contextmanager
    def conditions(self) -> Iterator[None]:
        """Set nothing: there is no attention kernel to choose."""
        yield


class CommMeasurement(DeviceMeasurement):
    """The communication test that the arguments name."""

    @cached_property
    def device(self) -> torch.device:
        """Kind of the devices that talk to each other."""
        return resolve_device(self.args.device)

    @cached_property
    def work(self) -> Communication:
        """Who takes part, and what is measured."""
        return Communication.of(self.args, self.device)

    @property
    def writes(self) -> bool:
        """Whether this process is the first one."""
        return self.work.crew.writes

    @cached_property
    def out(self) -> Path:
        """Path of the result file."""
        crew = self.work.crew
        return self.args.out or default_path("comm", f"{crew.processes}-{crew.backend}")

    @cached_property
    def file(self) -> ResultFile:
        """The result file."""
        if not self.writes:
            return ResultFile(None)
        command = command_line(self.frontend.prog, self.words)
        facts = {"command": command, "machine": machine_facts(self.device), **self.work.facts()}
        return ResultFile(self.out, self.frontend.progress, kind="comm", **facts)

    def measure(self) -> None:
        """See ``DeviceMeasurement``."""
        self.work.run(self.file, self.frontend.preload)


class PredictMeasurement(DeviceMeasurement):
    """The prediction that the arguments name."""

    @property
    def shape(self) -> str | None:
        """Shape; ``None`` for a model from files."""
        return self.args.shape or (None if self.args.model else SHAPE)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return DTYPES[self.args.dtype or "bfloat16"]

    @cached_property
    def work(self) -> Prediction:
        """What is predicted."""
        return Prediction.of(self.args, self.config, self.dtype)

    @cached_property
    def file(self) -> ResultFile:
        """The result file. Points come at once, so there is no progress to show."""
        place, software = self.work.machine, machine_facts(torch.device("cpu"))
        machine = {
            "device": "paper",
            "device_name": f"{self.work.devices} x {place.name}",
            **{name: software[name] for name in _SOFTWARE},
        }
        facts = {"command": command_line(self.frontend.prog, self.words), "machine": machine, **self.work.facts()}
        return ResultFile(self.out, kind="predict", model=model_facts(self.config, self.name, self.dtype, "prediction"), **facts)

    def measure(self) -> None:
        """See ``DeviceMeasurement``."""
        self.work.run(self.file)
        out: Path | None = self.args.cost_out
        if out is not None:
            made = self.work.cost_model(self.name.removesuffix(" (random weights)"), self.config, self.dtype, self.args.captured)
            made.save(out)
            self.file.note(cost={"file": str(out), "basis": made.basis, "error_p50": made.error_p50, "error_max": made.error_max})


DEVICE_MEASUREMENTS: Mapping[str, type[DeviceMeasurement]] = {"comm": CommMeasurement, "predict": PredictMeasurement}
"""Measurements by name."""


def run_on_devices(run: Measurement) -> None:
    """Run a measurement of ``DEVICE_MEASUREMENTS``."""
    assert isinstance(run, DeviceMeasurement)
    run.measure()


@dataclass(frozen=True)
class SideTable:
    """A table that comes before the main one of a result file.

    Attributes
    ----------
    name
        Name in one word.
    title
        What it shows.
    rows
        Its rows.
    """

    name: str
    title: str
    rows: Sequence[Row]


def side_tables(content: Row) -> list[SideTable]:
    """Return the tables that come before the main one of a result file."""
    tables: list[SideTable] = []
    if content["kind"] == "comm":
        tables = [SideTable("pairs", "between processes or devices, rows send:", matrix_rows(content["points"]))]
    if content["kind"] == "predict":
        tables = [
            SideTable("rates", "what the prediction starts from:", rate_rows(content)),
            SideTable("errors", "how far the model was off:", error_table(content["errors"])),
            SideTable("stages", "PREDICTED, by stage of the pruning schedule:", stage_rows(content["points"])),
        ]
    return [table for table in tables if table.rows]


def remarks(content: Row) -> list[str]:
    """Return what is to be said below the table of a result file."""
    if content["kind"] != "predict":
        return [content["note"]] if "note" in content else []
    return [
        *content["remarks"],
        *_cost_remarks(content),
        f"All times above are predictions. Accuracy on one device: {accuracy(content)}.",
    ]


def _cost_remarks(content: Row) -> list[str]:
    """Say what the cost model was fitted to, and how well."""
    if "cost" not in content:
        return []
    cost = content["cost"]
    return [
        f"Cost model: {cost['file']}. {cost['basis']}. Its linear prices give these predictions back with a median error of "
        f"{cost['error_p50']:.1%}, at most {cost['error_max']:.1%}."
    ]


def stated_rows(points: Sequence[Row]) -> list[Row]:
    """Return the table row of each figure that somebody else stated."""
    return [
        {
            "tokens": point["prompt_tokens"],
            "keep": point["keep"],
            "ttft ms": f"{point['median_ttft_ms']:.1f}",
            "speedup": f"{point['speedup']:.2f}" if "speedup" in point else "",
        }
        for point in points
    ]
