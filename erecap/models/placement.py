"""Where a model is put: on one device, layer by layer on several (a device map), or divided among the ranks of a launch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from erecap.distributed import tensor_parallel
from erecap.distributed.device_map import AUTOMATIC, Device, DeviceMapError, complete, describe, read_device_map
from erecap.distributed.launch import LaunchError
from erecap.distributed.ranks import Ranks, current
from erecap.models.device import resolve_device


class PlacementError(ValueError):
    """An error for a model that transformers cannot put where it should go."""


@dataclass(frozen=True)
class PlacementOptions:
    """What a user says about the place of a model.

    Attributes
    ----------
    device
        Torch device; ``None`` for the GPU where there is one.
    device_map
        ``auto``, ``balanced``, a JSON file, or module -> device; ``None`` for one device.
    offload_folder
        Directory for weights on disk that transformers has to convert; others are read from the model's own files.
    max_memory
        Most memory for weights by device (GPU number or ``cpu``), such as ``20GiB``, with ``auto`` and ``balanced``. A device that
        is not named gets nothing. ``None`` for what is free.
    """

    device: str | None = None
    device_map: str | Path | Mapping[str, Device] | None = None
    offload_folder: str | None = None
    max_memory: Mapping[int | str, str] | None = None


@dataclass(frozen=True)
class Placement:
    """Where a model is put, checked against the model's config, this machine and the launch.

    Attributes
    ----------
    device
        Device of the weights; with a device map the device that decides about the default dtype.
    device_map
        ``auto``, ``balanced``, or pairs of module and device; ``None`` for one device.
    offload_folder
        As in ``PlacementOptions``.
    max_memory
        Pairs of device and memory; empty for what is free.
    ranks
        Number of processes among which the model is divided.
    """

    device: torch.device
    device_map: str | tuple[tuple[str, Device], ...] | None = None
    offload_folder: str | None = None
    max_memory: tuple[tuple[int | str, str], ...] = ()
    ranks: int = 1

    @property
    def whole(self) -> bool:
        """Whether the model is put on one device as a whole."""
        return self.device_map is None and self.ranks == 1

    def load_options(self) -> dict[str, Any]:
        """Return the arguments of ``from_pretrained``; none for a model on one device, which is moved there afterwards."""
        if self.ranks > 1:
            return tensor_parallel.load_options(self.ranks)
        if self.device_map is None:
            return {}
        device_map = self.device_map if isinstance(self.device_map, str) else dict(self.device_map)
        return {"device_map": device_map, "offload_folder": self.offload_folder, "max_memory": dict(self.max_memory) or None}

    @contextmanager
    def explained(self, name: str) -> Iterator[None]:
        """Turn what transformers and accelerate say about the place of the model ``name`` into a ``PlacementError``."""
        try:
            yield
        except ValueError as error:  # a missing or broken model is an OSError, or has one device
            if self.whole:
                raise
            remedy = "start another number of ranks" if self.ranks > 1 else "name other devices, more memory, or offload_folder=DIR"
            raise PlacementError(
                f"transformers {transformers.__version__} cannot put {name} there ({error}): {remedy}, or use one device"
            ) from error

    def facts(self, model: PreTrainedModel) -> dict[str, str]:
        """Say how a loaded model is spread: ``tp_size`` or ``device_map``, as text; empty for a model on one device."""
        if self.ranks > 1:
            return {"tp_size": str(self.ranks)}
        if self.device_map is None:
            return {}
        return {"device_map": describe(self._map(model))}

    def devices(self, model: PreTrainedModel) -> tuple[torch.device, ...]:
        """Return the devices on which this process computes. A GPU fetches the weights that lie on the CPU or on disk."""
        given = [] if self.device_map is None else self._map(model).values()
        gpus = {int(str(device).removeprefix("cuda:")) for device in given if str(device).removeprefix("cuda:").isdigit()}
        return tuple(torch.device("cuda", number) for number in sorted(gpus)) or (self.device,)

    def _map(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return the map by which accelerate has put the model on its devices; it keeps none where there is one device."""
        return getattr(model, "hf_device_map", None) or {"": self.device}


def choose_placement(options: PlacementOptions, config: PretrainedConfig) -> Placement:
    """Check what the user says, and add what the launch says: ranks divide a model among themselves.

    Parameters
    ----------
    options
        What the user says.
    config
        Configuration of the model.

    Raises
    ------
    ValueError
        For devices that are not there, a device map that does not fit the model, options that contradict each other or the launch,
        a model that cannot be divided, and where accelerate is missing.
    """
    ranks = current()
    if options.device_map is not None:
        return _mapped(options, config, ranks)
    for name, value in (("offload_folder", options.offload_folder), ("max_memory", options.max_memory)):
        if value is not None:
            raise DeviceMapError(f"{name} means nothing without a device map: give device_map=auto too, or leave it out")
    if ranks is None:
        return Placement(resolve_device(options.device))
    return _divided(options, config, ranks)


def _mapped(options: PlacementOptions, config: PretrainedConfig, ranks: Ranks | None) -> Placement:
    if ranks is not None:
        raise LaunchError(
            f"device_map puts the layers of one process on several devices, and torchrun has started {ranks.size} processes that "
            "divide each layer: start without torchrun, or leave device_map out"
        )
    if options.device is not None:
        raise DeviceMapError(f"device={options.device!r} and device_map both say where the model goes: give one of them")
    _need_accelerate("a device map")
    memory = tuple((options.max_memory or {}).items())
    if options.device_map in AUTOMATIC:
        return Placement(resolve_device(), str(options.device_map), options.offload_folder, memory)
    if memory:
        raise DeviceMapError(f"max_memory is for device_map={' or '.join(AUTOMATIC)}: leave it out, since your own map says all")
    given = options.device_map if isinstance(options.device_map, Mapping) else read_device_map(Path(str(options.device_map)))
    whole = complete(dict(given), config, torch.cuda.device_count())
    gpus = [device for device in whole.values() if isinstance(device, int)]
    device = torch.device("cuda", gpus[0]) if gpus else torch.device("cpu")
    return Placement(device, tuple(whole.items()), options.offload_folder)


def _divided(options: PlacementOptions, config: PretrainedConfig, ranks: Ranks) -> Placement:
    if options.device is not None and options.device != ranks.device.type:
        raise LaunchError(
            f"device={options.device!r} under torchrun, where each process has its own device, {ranks.device} here: leave it out"
        )
    _need_accelerate("tensor parallelism")
    tensor_parallel.check_divides(config, ranks.size)
    return Placement(ranks.device, ranks=ranks.size)


def _need_accelerate(what: str) -> None:
    if find_spec("accelerate") is None:
        raise ValueError(f"{what} needs the package accelerate, by which transformers loads it: pip install accelerate")
