"""Files of a small network that belongs to a model: its weights (safetensors), and beside them its settings (JSON).

The settings hold a checksum of the weights file, so a file that was damaged or replaced is found.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from erecap.models.files import FileError, fill_atomically, read_json_object, reading, write_json_object
from erecap.models.identity import ModelIdentity, check_finite

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class NetworkFiles:
    """What the files of one kind of network are called.

    Attributes
    ----------
    name
        What the network is, in words.
    stem
        Name of both files without suffix.
    command
        The command that makes one.
    versions
        Format versions that can be read; the last one is written.
    """

    name: str
    stem: str
    command: str
    versions: tuple[int, ...]

    @property
    def weights(self) -> str:
        """Name of the weights file."""
        return f"{self.stem}.safetensors"

    @property
    def config(self) -> str:
        """Name of the settings file."""
        return f"{self.stem}.json"

    @property
    def _remedy(self) -> str:
        return f"copy the {self.name} again, or train one with `{self.command}`"

    def checksum(self, directory: Path | str) -> str:
        """Return the first 16 hex digits of the SHA-256 of the weights file in ``directory``."""
        return hashlib.sha256((Path(directory) / self.weights).read_bytes()).hexdigest()[:16]

    def save(self, directory: Path | str, network: nn.Module, model: ModelIdentity, settings: Mapping[str, Any]) -> None:
        """Write the files, atomically. Make the directory if it is missing. ``model`` is what the network belongs to."""
        path = Path(directory)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        fill_atomically(path / self.weights, lambda partial: save_file(weights, partial))
        known = {"format_version": self.versions[-1], "base_model": asdict(model), "weights": self.checksum(path)}
        write_json_object(path / self.config, known | dict(settings))

    def read(self, directory: Path | str) -> dict[str, Any]:
        """Read the settings.

        Raises
        ------
        ValueError
            For a directory without such a network, and for another format.
        FileError
            For settings that cannot be read.
        """
        path = Path(directory)
        missing = [name for name in (self.config, self.weights) if not (path / name).is_file()]
        if missing:
            raise ValueError(f"{path} holds no {self.name} ({', '.join(missing)} missing): train one with `{self.command}`")
        saved = read_json_object(path / self.config, self._remedy)
        version = saved.get("format_version")
        if version not in self.versions:
            raise ValueError(
                f"{path / self.config} has format version {version}, this erecap reads {' and '.join(map(str, self.versions))}: "
                f"train the {self.name} again with `{self.command}`"
            )
        return saved

    def load(self, directory: Path | str, make: Callable[[ModelIdentity, dict[str, Any]], Network]) -> Network:
        """Make the network of the files, in evaluation mode.

        Parameters
        ----------
        directory
            The directory of the files.
        make
            Makes the network of the model that it belongs to and of the settings.

        Raises
        ------
        ValueError
            As ``read`` raises it, and for settings or weights that are broken or do not fit each other (``FileError``).
        """
        path, saved = Path(directory), self.read(directory)
        with reading(path / self.config, self._remedy):
            here, written = self.checksum(path), saved["weights"]
            if written != here:
                raise FileError(
                    f"{path / self.weights} is not the file that was written with {self.config} (checksum {here}, not {written}): "
                    f"it is damaged or was replaced; {self._remedy}"
                )
            network = make(ModelIdentity(**saved["base_model"]), saved)
            network.load_state_dict(load_file(path / self.weights))
        check_finite(network, f"the {self.name} in {path}")
        return network.eval().requires_grad_(False)
