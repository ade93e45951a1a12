"""Device maps: which part of a model goes to which device, in accelerate's form of module name -> device.

``auto`` and ``balanced`` are worked out by transformers from the free memory. A map of one's own is a JSON file. It is checked here
against the model's structure and this machine, before any weight is read.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

Device = int | str
"""The number of a GPU, ``cpu`` or ``disk``."""
DeviceMap = dict[str, Device]
"""Device by module. A module's entry holds for all that is in it; the empty name is the whole model."""

AUTOMATIC = ("auto", "balanced")
OFFLOADED = ("cpu", "disk")
_FORM = 'write a JSON object such as {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu", ...}'
_LAYER = re.compile(r"(.*\.layers\.\d+)\.")
_NUMBERED = re.compile(r"(.*)\.(\d+)")


class DeviceMapError(ValueError):
    """An error for a device map that does not fit the model or this machine."""


def read_device_map(path: Path) -> DeviceMap:
    """Read a map from a JSON file. Raise ``DeviceMapError`` for a file that is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceMapError(
            f"device_map={str(path)!r} cannot be read ({error.strerror}): use {' or '.join(AUTOMATIC)}, or name a JSON file"
        ) from error
    except Exception as error:  # text that is not UTF-8, nesting without end
        raise DeviceMapError(f"{path} is not JSON ({error}): {_FORM}") from error
    if not isinstance(content, dict) or not content:
        raise DeviceMapError(f"{path} holds no device map: {_FORM}")
    return {name: _device(name, device) for name, device in content.items()}


def _device(name: str, given: Any) -> Device:
    """Return a device as the number of a GPU, ``cpu`` or ``disk``."""
    text = str(given).removeprefix("cuda:")
    if not isinstance(given, bool) and text.isdigit():
        return int(text)
    if given == "cuda":
        return 0
    if given in OFFLOADED:
        return str(given)
    raise DeviceMapError(f"device {given!r} of {name!r} is not known: write the number of a GPU, 'cpu' or 'disk'")


def complete(device_map: DeviceMap, config: PretrainedConfig, gpus: int) -> DeviceMap:
    """Check a map, and add the modules without weights that it leaves out.

    Parameters
    ----------
    device_map
        The map.
    config
        Configuration of the model.
    gpus
        Number of GPUs of this machine.

    Raises
    ------
    DeviceMapError
        For GPUs that are not there, unknown modules, modules with weights that are left out, and a layer on two devices.
    """
    _check_gpus(device_map, gpus)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    modules = {name: module for name, module in model.named_modules() if name}
    weights = [name for name, _ in model.named_parameters()]
    _check_known(device_map, {"", *modules, *weights})
    places = {name: _place(device_map, name) for name in weights}
    missing = sorted({name.rpartition(".")[0] for name, place in places.items() if place is None}, key=list(modules).index)
    if missing:
        raise DeviceMapError(
            f"the device map leaves out {summarize(missing)}: give every module with weights a device; '' is the whole model"
        )
    _check_layers({name: place for name, place in places.items() if place is not None})
    rotary = next(name for name in modules if name.endswith("rotary_emb"))  # it has no weights, and goes with the embedding
    return device_map if _place(device_map, rotary) is not None else device_map | {rotary: _first(places)}


def _first(places: Mapping[str, Device | None]) -> Device:
    found = next(iter(places.values()))
    assert found is not None, "nothing is missing"
    return found


def _check_gpus(device_map: DeviceMap, gpus: int) -> None:
    wanted = sorted({device for device in device_map.values() if isinstance(device, int) and device >= gpus})
    if wanted:
        raise DeviceMapError(
            f"the device map names GPU {', '.join(map(str, wanted))} and this machine has {gpus} "
            f"({'numbers 0 to ' + str(gpus - 1) if gpus else 'none'}): name devices that are there, 'cpu' or 'disk'"
        )


def _check_known(device_map: DeviceMap, names: Collection[str]) -> None:
    unknown = [name for name in device_map if name not in names]
    if unknown:
        close = get_close_matches(unknown[0], list(names), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "names are those of model.named_modules(), such as 'model.layers.0'"
        raise DeviceMapError(f"the device map names {', '.join(map(repr, unknown))}, which the model does not have: {hint}")


def _check_layers(places: Mapping[str, Device]) -> None:
    """Refuse a layer on two devices: the engine runs whole layers."""
    of_layer: dict[str, set[Device]] = {}
    for name, device in places.items():
        found = _LAYER.match(name)
        if found:
            of_layer.setdefault(found.group(1), set()).add(device)
    split = [name for name, devices in of_layer.items() if len(devices) > 1]
    if split:
        raise DeviceMapError(f"the device map splits {summarize(split)} over several devices: give a layer one device")


def _place(device_map: Mapping[str, Device], name: str) -> Device | None:
    """Return the device of a module or weight: that of the longest prefix of its name in the map."""
    parts = name.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), -1, -1))
    return next((device_map[prefix] for prefix in prefixes if prefix in device_map), None)


def describe(device_map: Mapping[str, Any]) -> str:
    """Write a map in short, device by device: ``0: model.embed_tokens, model.layers.0-13; 1: model.layers.14-27, ...``."""
    by_device: dict[str, list[str]] = {}
    for name, device in device_map.items():
        by_device.setdefault(str(device).removeprefix("cuda:"), []).append(name or "all")
    return "; ".join(f"{device}: {summarize(names)}" for device, names in by_device.items())


def summarize(names: Collection[str]) -> str:
    """List names of modules, with consecutive layers in one: ``model.layers.3-7, model.norm``."""
    return ", ".join(_runs(names))


def _runs(names: Collection[str]) -> Iterator[str]:
    root, first, last = "", -1, -2
    for name in [*names, ""]:
        found = _NUMBERED.fullmatch(name)
        if found and (found.group(1), int(found.group(2))) == (root, last + 1):
            last += 1
            continue
        if first >= 0:
            yield f"{root}.{first}" if first == last else f"{root}.{first}-{last}"
        root, first, last = (found.group(1), int(found.group(2)), int(found.group(2))) if found else ("", -1, -2)
        if name and not found:
            yield name
