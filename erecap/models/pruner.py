"""The token pruner: one small MLP per stage that scores how much a token matters to what comes later.

It maps residual streams to scores, and belongs to the model that it was trained for. What a scorer reads of a residual stream is
decided in ``TokenPruner.forward`` alone: everything that scores with a pruner, training included, calls it.
"""

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from erecap.models.device import execution_device
from erecap.models.identity import ModelIdentity, raw_bytes
from erecap.models.network_files import NetworkFiles

_WITHOUT_INPUTS = 2
"""The format version before the one that names the scorers' inputs, which were the residual streams as they are."""
_FILES = NetworkFiles("pruner", "pruner", "erecap train-pruner", (_WITHOUT_INPUTS, 3))
WEIGHTS_FILE, CONFIG_FILE = _FILES.weights, _FILES.config

_EPSILON = 1e-6


def _rms(hidden: Tensor) -> Tensor:
    return functional.rms_norm(hidden, [hidden.shape[-1]], eps=_EPSILON)


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {"rms": _rms, "raw": lambda hidden: hidden}
"""What a scorer reads, by name: the residual stream divided by its root mean square, token by token, or as it is.

Real models need "rms". In SmolLM2-135M, from layer 11 on, the residual stream of the first token has a norm of 25,000, that of the
median token one of 132, so that scores of unscaled streams span thousands."""


class PrunerMismatchError(ValueError):
    """An error for a pruner that was trained for another model than the present one."""


class StageScorer(nn.Module):
    """An MLP ``hidden_size -> hidden_size // 4 -> GELU -> 1`` that scores tokens at one stage."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden_size, max(1, hidden_size // 4))
        self.out = nn.Linear(max(1, hidden_size // 4), 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Score ``hidden``, ``(batch, n, hidden_size)`` in the dtype of the weights: float32 ``(batch, n)``.

        The last product is computed in float32. In bfloat16 thousands of tokens would share a few hundred scores, and the order of
        positions would decide between them.
        """
        features = functional.gelu(self.up(hidden)).float()
        return functional.linear(features, self.out.weight.float(), self.out.bias.float()).squeeze(-1)


class TokenPruner(nn.Module):
    """A module with one ``StageScorer`` per stage.

    Parameters
    ----------
    identity
        Identity of the model that it is trained for.
    stages
        Layers after which it scores, in strictly rising order.
    inputs
        What the scorers read of a residual stream, a name in ``INPUTS``.

    Raises
    ------
    ValueError
        For stages that are no layers of the model in rising order, and for unknown inputs.
    """

    def __init__(self, identity: ModelIdentity, stages: Sequence[int], inputs: str = "rms") -> None:
        super().__init__()
        if inputs not in INPUTS:
            raise ValueError(f"inputs={inputs!r} of the scorers are not known: choose from {', '.join(INPUTS)}")
        if list(stages) != sorted(set(stages)) or (stages and not 0 <= stages[0] <= stages[-1] < identity.num_layers):
            raise ValueError(
                f"stages after layers {list(stages)} must be in strictly rising order within 0..{identity.num_layers - 1}, "
                f"the layers of {identity.name}"
            )
        self.identity = identity
        self.stages, self.inputs = tuple(stages), inputs
        self.scorers = nn.ModuleList([StageScorer(identity.hidden_size) for _ in stages])

    def forward(self, hidden: Tensor, stage: int) -> Tensor:
        """Score the residual stream that leaves layer ``stages[stage]``, ``(batch, n, hidden_size)``: float32 ``(batch, n)``."""
        return self.scorers[stage](INPUTS[self.inputs](hidden))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def checksum(self) -> str:
        """Compute a hash of the stages, of the inputs and of all weights in their dtype, 16 hex digits."""
        digest = hashlib.sha256(f"{self.stages}{'' if self.inputs == 'raw' else self.inputs}".encode())
        for name, weight in sorted(self.state_dict().items()):
            digest.update(f"{name} {weight.dtype}".encode())
            digest.update(raw_bytes(weight))
        return digest.hexdigest()[:16]

    def check_model(self, model: ModelIdentity) -> None:
        """Raise ``PrunerMismatchError`` unless this pruner was trained for ``model``; the message names both models."""
        if not self.identity.matches(model):
            raise PrunerMismatchError(
                f"the pruner was trained for {self.identity.describe()}, the model is {model.describe()}: "
                "use the pruner of this model, train one for it, or use a selector that needs none ('random', 'recency')"
            )

    def save_pretrained(self, directory: Path | str) -> None:
        """Write weights (safetensors) and configuration (JSON) into ``directory``. Make the directory if it is missing."""
        _FILES.save(directory, self, self.identity, {"stages": list(self.stages), "inputs": self.inputs})

    @classmethod
    def from_pretrained(cls, directory: Path | str, model: ModelIdentity | None = None) -> "TokenPruner":
        """Read what ``save_pretrained`` wrote, in evaluation mode.

        Parameters
        ----------
        directory
            The pruner's directory.
        model
            The model that it will prune; ``None`` skips the check.

        Raises
        ------
        PrunerMismatchError
            For the pruner of another model.
        ValueError
            For a directory without a pruner, or with one that is broken or of another format.
        """
        pruner = _FILES.load(directory, lambda identity, saved: cls(identity, saved["stages"], _saved_inputs(saved)))
        if model is not None:
            pruner.check_model(model)
        return pruner


def weights_checksum(directory: Path | str) -> str:
    """Return the first 16 hex digits of the SHA-256 of the weights of the pruner in ``directory``."""
    return _FILES.checksum(directory)


def place_pruner(pruner: TokenPruner, model: PreTrainedModel) -> TokenPruner:
    """Put each scorer where its stage's layer computes, in the model's dtype.

    Returns
    -------
    TokenPruner
        ``pruner`` itself where nothing has to be moved, else a copy.

    Raises
    ------
    PrunerMismatchError
        For a pruner of a deeper model.
    """
    parts: Any = model
    layers = parts.get_decoder().layers
    if pruner.stages and pruner.stages[-1] >= len(layers):
        raise PrunerMismatchError(
            f"the pruner scores after layers {list(pruner.stages)} and the model has {len(layers)} layers: use the pruner of this "
            "model, or train one for it"
        )
    places = [(execution_device(layers[stage]), model.dtype) for stage in pruner.stages]
    if all(_lies(scorer, *place) for scorer, place in zip(pruner.scorers, places, strict=True)):
        return pruner
    placed = deepcopy(pruner)
    for scorer, (device, dtype) in zip(placed.scorers, places, strict=True):
        scorer.to(device, dtype)
    return placed


def _lies(module: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    return all((weight.device, weight.dtype) == (device, dtype) for weight in module.parameters())


def _saved_inputs(saved: dict[str, Any]) -> str:
    """Return what the scorers of a file read; a file of the old format is of scorers that read the residual stream as it is."""
    return "raw" if saved["format_version"] == _WITHOUT_INPUTS else str(saved["inputs"])
