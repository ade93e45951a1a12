"""What a backend that runs a model in this process can say of it: weights, dtype, device, and the ceiling of a pruned prefill."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from agents.runner import MakeBackend
from benchmarks.output.files import checksum
from planner import BackendSpec, Generation, PlannerBackend


@runtime_checkable
class HasModel(Protocol):
    """A backend of the engine; ``loaded`` is its ``erecap.models.loading.LoadedModel``."""

    loaded: Any


def describe_models(specs: Sequence[str], make_backend: MakeBackend) -> dict[str, dict[str, str]]:
    """Checksums of model, pruner and cost model, dtype and device, by spec string; empty for a backend whose model is elsewhere.

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
    files = {"pruner": weights, "cost": _cost_file(spec), "calibration": _calibration_file(backend, weights)}
    return facts | {name: checksum(path) for name, path in files.items() if path is not None}


def _cost_file(spec: str) -> Path | None:
    """The cost model that the backend chooses its schedules by; ``None`` for one without a budget."""
    from erecap.calibration.cost_model import DEFAULT_FILE  # imports torch, as a backend with a model has done already

    options = BackendSpec.parse(spec).options
    return Path(options.get("cost", DEFAULT_FILE)) if "budget_ms" in options else None


def _calibration_file(backend: HasModel, weights: Path | None) -> Path | None:
    """The thresholds that the backend prunes by; ``None`` where it does not."""
    from erecap.calibration.thresholds import CALIBRATION_FILE  # see _cost_file

    by_threshold = getattr(getattr(backend, "schedule", None), "rule", None) == "threshold"
    return weights.parent / CALIBRATION_FILE if by_threshold and weights is not None else None


def _pruner_weights(spec: str, backend: HasModel) -> Path | None:
    """The file that the backend's pruner was read from; ``None`` where it has none."""
    from erecap.models.loading import bundled_pruner_dir  # imports torch, as a backend with a model has done already
    from erecap.models.pruner import WEIGHTS_FILE
    from erecap.selectors import USE_PRUNER

    options = BackendSpec.parse(spec).options
    if getattr(backend, "selector", None) is None or options.get("selector", "learned") not in USE_PRUNER:
        return None
    return Path(options.get("pruner", bundled_pruner_dir())) / WEIGHTS_FILE


def ceiling_of(backend: PlannerBackend, answer: Generation) -> float | None:
    """The most that prefill could gain from what was dropped; ``None`` for a backend without layers of its own."""
    if not isinstance(backend, HasModel) or not answer.layer_tokens:
        return None
    from erecap.calibration.flops import ceiling  # see _pruner_weights

    return ceiling(backend.loaded.model.config, answer.layer_tokens, answer.prompt_tokens)
