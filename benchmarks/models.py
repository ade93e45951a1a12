"""What a backend that runs a model in this process can say of it: weights, dtype, device, and the ceiling of a pruned prefill."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from agents.runner import MakeBackend
from benchmarks.files import checksum
from planner import BackendSpec, Generation, PlannerBackend


@runtime_checkable
class HasModel(Protocol):
    """A backend of the engine; ``loaded`` is its ``erecap.loading.LoadedModel``."""

    loaded: Any


def describe_models(specs: Sequence[str], make_backend: MakeBackend) -> dict[str, dict[str, str]]:
    """Checksums of model and pruner, dtype and device, by spec string; empty for a backend whose model is elsewhere.

    Makes each backend once, so that a misspelt parameter or a missing model shows before anything is played.
    """
    backends = {spec: make_backend(spec) for spec in specs}  # all at once: they share one copy of the weights
    return {spec: _facts(spec, backend) for spec, backend in backends.items()}


def _facts(spec: str, backend: PlannerBackend) -> dict[str, str]:
    if not isinstance(backend, HasModel):
        return {}
    loaded = backend.loaded
    facts = {
        "name": loaded.identity.name,
        "model": loaded.identity.checksum,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": str(loaded.device),
    }
    weights = _pruner_weights(spec, backend)
    if weights is None:
        return facts
    from erecap.calibration import CALIBRATION_FILE  # see _pruner_weights

    thresholds = {"calibration": checksum(weights.parent / CALIBRATION_FILE)} if _by_threshold(backend) else {}
    return {**facts, "pruner": checksum(weights), **thresholds}


def _by_threshold(backend: PlannerBackend) -> bool:
    return getattr(getattr(backend, "schedule", None), "rule", None) == "threshold"


def _pruner_weights(spec: str, backend: HasModel) -> Path | None:
    """The file that the backend's pruner was read from; ``None`` where it has none."""
    from erecap.loading import bundled_pruner_dir  # imports torch, as a backend with a model has done already
    from erecap.pruner import WEIGHTS_FILE
    from erecap.selectors.learned import LearnedSelector

    if not isinstance(getattr(backend, "selector", None), LearnedSelector):
        return None
    return Path(BackendSpec.parse(spec).options.get("pruner", bundled_pruner_dir())) / WEIGHTS_FILE


def ceiling_of(backend: PlannerBackend, answer: Generation) -> float | None:
    """The most that prefill could gain from what was dropped; ``None`` for a backend without layers of its own."""
    if not isinstance(backend, HasModel) or not answer.layer_tokens:
        return None
    from erecap.costs import ceiling  # see _pruner_weights

    return ceiling(backend.loaded.model.config, answer.layer_tokens, answer.prompt_tokens)
