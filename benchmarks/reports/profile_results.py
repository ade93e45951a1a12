"""The result files of ``erecap profile`` in some directories, and which of them belong together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.profiling.results import Row, measured_points, read_result


@dataclass(frozen=True)
class Result:
    """A result file.

    Attributes
    ----------
    path
        The file.
    content
        What it holds.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Name of the measurement."""
        return str(self.content["kind"])

    @property
    def machine(self) -> str:
        """Name of the device."""
        return str(self.content["machine"].get("device_name", "unknown device"))

    @property
    def model(self) -> str:
        """Name and dtype of the model."""
        facts = self.content.get("model")
        return f"{facts['model_id']}, {facts['dtype']}" if facts else "no model"

    @property
    def devices(self) -> int:
        """Number of devices that the model was spread over."""
        return int(self.content.get("devices", 1))

    @property
    def points(self) -> list[Row]:
        """The points that have figures."""
        return measured_points(self.content["points"])


@dataclass(frozen=True)
class Group:
    """The results of one model on one device, around one measurement of prefills.

    Attributes
    ----------
    prefill
        The prefills; ``None`` where only other kinds were measured.
    others
        By kind, the other results of the same model and device; of each kind the last file.
    """

    prefill: Result | None
    others: Mapping[str, Result]

    @property
    def title(self) -> str:
        """What the group is about."""
        own = self.prefill or next(iter(self.others.values()))
        return f"{own.model} on {own.machine}"


def read_results(directories: Sequence[Path]) -> list[Result]:
    """Read all result files (``*.json``) in ``directories``, not in those below.

    Raises
    ------
    ValueError
        For a directory that is missing or holds no result file, and for a file that is no result or has another version; the
        message names it.
    """
    return [Result(path, read_result(path)) for directory in directories for path in _files(directory)]


def _files(directory: Path) -> list[Path]:
    if directory.is_file():
        return [directory]
    if not directory.is_dir():
        raise ValueError(f"{str(directory)!r} is not there: give directories of result files of `erecap profile`")
    found = sorted(directory.glob("*.json"))
    if not found:
        raise ValueError(
            f"{str(directory)!r} holds no result file: measure first, such as with `erecap profile prefill --out FILE`"
        )
    return found


def single_device_groups(results: Sequence[Result]) -> Iterator[Group]:
    """Yield one group per measurement of prefills on one device, and one per model and device that has none."""
    measured = [result for result in results if result.devices == 1 and result.kind in ("prefill", "generate", "memory", "stated")]
    for place in dict.fromkeys((result.machine, result.model) for result in measured):
        own = [result for result in measured if (result.machine, result.model) == place]
        others = {result.kind: result for result in own if result.kind in ("generate", "memory")}
        prefills: list[Result | None] = [result for result in own if result.kind in ("prefill", "stated")]
        yield from (Group(prefill, others) for prefill in prefills or [None])


def of_kind(results: Sequence[Result], kind: str) -> list[Result]:
    """Return the results of one kind that have figures."""
    return [result for result in results if result.kind == kind and result.points]


def several_devices(results: Sequence[Result], prediction: Result) -> list[Result]:
    """Return the prefills on several devices of the machine that ``prediction`` is for."""
    name = prediction.content["rates"]["name"]
    return [result for result in results if result.devices > 1 and result.points and result.machine.startswith(name)]
