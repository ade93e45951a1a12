"""Collected saliency on disk: one safetensors file, and its parts until all samples are done.

The tensors hold the samples one after another: ``saliency`` float32 ``(stages, tokens)``; ``input_ids`` int32, ``turns`` int32 and
``plans`` bool, each ``(tokens,)``, so that the file can be shown without the data; ``ids`` int64 ``(samples,)``, numbers in the
data; ``lengths`` int64 ``(samples,)`` and ``offsets`` int64 ``(samples + 1,)``. Metadata, all JSON: ``format``, ``name`` and
``model`` (the identity), ``stages``, ``loss``, ``data`` (checksum of the sequences), ``samples`` (their number), ``settings``.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from erecap.models.files import fill_atomically, reading
from erecap.models.identity import ModelIdentity
from erecap.training.checkpoint import describe_differences
from erecap.training.sequences import CHECKSUM, Float32, Int32, check_tensors, tensors_checksum

SALIENCY_FORMAT = "erecap-saliency-3"
"""Name and version of the format, in the file's metadata."""
_REMEDY = "copy it again, or make it again with `erecap saliency`"
_PER_TOKEN = ("input_ids", "turns", "plans")


@dataclass(frozen=True)
class SalientSample:
    """One sequence and its saliency.

    Attributes
    ----------
    index
        The sequence's number in the data.
    input_ids, turns
        int32 ``(n,)``, as in ``TokenSequence``.
    plans
        bool ``(n,)``: tokens of plans to imitate, from the second turn on.
    saliency
        float32 ``(stages, n)``, NaN for tokens without saliency.
    """

    index: int
    input_ids: Int32
    turns: Int32
    plans: npt.NDArray[np.bool_]
    saliency: Float32


def parts_dir(out: Path) -> Path:
    """Return the directory of the parts of an unfinished ``out``."""
    return out.with_name(out.name + ".parts")


def write_samples(path: Path, samples: Sequence[SalientSample], metadata: Mapping[str, Any]) -> None:
    """Write ``samples`` to one file, atomically."""
    lengths = np.array([len(s.input_ids) for s in samples], dtype=np.int64)
    tensors: dict[str, npt.NDArray[Any]] = {
        "saliency": np.ascontiguousarray(np.concatenate([s.saliency for s in samples], axis=1)),
        **{name: np.concatenate([getattr(s, name) for s in samples]) for name in _PER_TOKEN},
        "ids": np.array([s.index for s in samples], dtype=np.int64),
        "lengths": lengths,
        "offsets": np.cumsum([0, *lengths]).astype(np.int64),
    }
    described = {key: json.dumps(value) for key, value in metadata.items()} | {CHECKSUM: tensors_checksum(tensors)}
    fill_atomically(path, lambda partial: save_file(tensors, partial, metadata=described))


def read_salient(path: Path) -> list[SalientSample]:
    """Read what ``write_samples`` wrote."""
    with reading(path, _REMEDY):
        file = safe_open(path, framework="numpy")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
        check_tensors(path, file.metadata(), tensors)  # type: ignore[no-untyped-call]
        found = []
        for row, index in enumerate(tensors["ids"].tolist()):
            begin, end = tensors["offsets"][row : row + 2].tolist()
            values = {name: tensors[name][..., begin:end] for name in ("saliency", *_PER_TOKEN)}
            found.append(SalientSample(index, **values))
        return found


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a file or part. Raise ``ValueError`` for a file of another kind."""
    with reading(path, _REMEDY):
        stored = safe_open(path, framework="numpy").metadata() or {}  # type: ignore[no-untyped-call]
        found = json.loads(stored["format"]) if "data" in stored else stored.get("format")
        if found == SALIENCY_FORMAT:
            return {key: json.loads(value) for key, value in stored.items() if key != CHECKSUM}
    raise ValueError(f"{path} has the format {found!r}, not {SALIENCY_FORMAT!r}: make it again with `erecap saliency`")


def check_metadata(path: Path, wanted: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` unless the file or part has the metadata ``wanted``; the model's name may differ."""
    there, here = ({key: value for key, value in m.items() if key != "name"} for m in (read_metadata(path), wanted))
    both = describe_differences(there, here)
    if both:
        raise ValueError(f"{path} is of another run ({both}): name another file, or delete it")


def merge(out: Path, parts: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Write the samples of all parts to the one file ``out``, then remove the parts."""
    write_samples(out, [sample for part in parts for sample in read_salient(part)], metadata)
    remove_parts(out)


def remove_parts(out: Path) -> None:
    """Remove the parts beside ``out`` and their directory, if there are any."""
    directory = parts_dir(out)
    for part in directory.glob("part-*"):
        part.unlink()
    if directory.is_dir():
        directory.rmdir()


class SaliencySet:
    """Collected saliency in memory.

    Parameters
    ----------
    path
        Path of the file.
    model
        Identity of the model that the saliency must belong to.
    stages
        Layers to read; by default all in the file.

    Attributes
    ----------
    stages
        The layers, in order.
    data
        Checksum of the sequences that it was computed from.
    loss
        The differentiated loss, in words.
    settings
        The settings of the collection (``SaliencySettings``), as plain values.

    Raises
    ------
    ValueError
        For a file that is missing, unfinished, of another kind or model, or without these stages; and where no token has saliency.
    """

    def __init__(self, path: Path, model: ModelIdentity, stages: Sequence[int] | None = None) -> None:
        _check_complete(Path(path))
        metadata = read_metadata(Path(path))
        with reading(path, _REMEDY):
            saved, there = ModelIdentity(**metadata["model"] | {"name": metadata["name"]}), tuple(map(int, metadata["stages"]))
            self.data, self.loss, self.settings = metadata["data"], metadata["loss"], metadata["settings"]
        if not saved.matches(model):
            raise ValueError(
                f"{path} is of {saved.describe()}, the model is {model.describe()}: name the model that it was made with, or "
                "collect saliency for this model"
            )
        self.stages = there if stages is None else tuple(stages)
        rows = _rows(path, there, self.stages)
        self._samples = {
            s.index: SalientSample(s.index, s.input_ids, s.turns, s.plans, s.saliency[rows]) for s in read_salient(Path(path))
        }
        if all(np.isnan(sample.saliency).all() for sample in self._samples.values()):
            raise ValueError("no token has saliency: give episodes with at least two replans, the later of which have plan targets")

    def __getitem__(self, index: int) -> Float32:
        """Return the saliency of sequence ``index``, float32 ``(stages, tokens)``."""
        return self._samples[index].saliency

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int) -> SalientSample:
        """Return sequence ``index`` with its saliency. Raise ``ValueError`` for a number out of range."""
        if index not in self._samples:
            raise ValueError(f"sample={index} is not there: the samples are 0..{len(self) - 1}")
        return self._samples[index]

    def samples(self) -> Iterable[SalientSample]:
        """Yield all samples, in the order of their numbers."""
        return (self._samples[index] for index in sorted(self._samples))


def _check_complete(path: Path) -> None:
    if path.is_file():
        return
    if parts_dir(path).is_dir():
        raise ValueError(f"{path} is not complete: run the `erecap saliency` that was stopped once more, it goes on from its parts")
    raise ValueError(f"{path} is no file: make one with `erecap saliency --out {path.name}`")


def _rows(path: Path, there: Sequence[int], wanted: Sequence[int]) -> list[int]:
    missing = [stage for stage in wanted if stage not in there]
    if missing or not wanted:
        raise ValueError(f"{path} has saliency after layers {list(there)}, not {missing}: choose among these, or collect it there")
    return [there.index(stage) for stage in wanted]
