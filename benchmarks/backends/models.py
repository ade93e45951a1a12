"""Facts about backends that run a model in this process: weights, dtype, device, and the ceiling of a pruned prefill."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from agents.runner import MakeBackend
from benchmarks.backends.registry import is_user_backend
from benchmarks.output.files import checksum
from planner import BackendSpec, Generation, PlannerBackend, StatefulBackend

SESSIONS = "sessions"
"""The fact by which a backend that keeps state between prompts is known."""


@runtime_checkable
class HasModel(Protocol):
    """A backend that runs a model in this process: the engine's, or a user's.

    Attributes
    ----------
    loaded : erecap.models.loading.LoadedModel
        The model with its tokenizer.
    """

    loaded: Any


def describe_models(specs: Sequence[str], make_backend: MakeBackend) -> dict[str, dict[str, str]]:
    """Describe the models of some backends.

    Each backend is made once, so a misspelt parameter or a missing model is reported before the first episode.

    Parameters
    ----------
    specs : sequence of str
        Spec strings.
    make_backend : MakeBackend
        Makes a backend from its spec string.

    Returns
    -------
    dict of str to dict
        By spec string: name of the model, dtype, device, how it is spread over several devices (``tp_size`` or ``device_map``), and
        checksums of the model and of the files that control its pruning; ``SESSIONS`` for one that keeps state between prompts.
        Empty for a backend that runs no model in this process.

    Raises
    ------
    ValueError
        For bad parameters of a backend.
    """
    backends = {spec: make_backend(spec) for spec in specs}  # all alive at once, so that they share one copy of the weights
    return {spec: _facts(spec, backend) for spec, backend in backends.items()}


def check_alike(models: Mapping[str, dict[str, str]], here: Mapping[str, dict[str, str]]) -> None:
    """Refuse a replay of other models than those that played.

    Parameters
    ----------
    models : mapping of str to dict
        Facts by spec string, from a worker.
    here : mapping of str to dict
        Facts of the replayed ones, from this process.

    Raises
    ------
    ValueError
        Where the two differ.
    """
    for spec, facts in here.items():
        if facts != models[spec]:
            raise ValueError(
                f"backend {spec!r} is {_listed(facts)} here and {_listed(models[spec])} in the workers, so the paired replay, "
                "which this process runs, would measure another model: leave it out (--replay-prompts 0), or start the command "
                "on a machine like those of the workers"
            )


@dataclass(frozen=True)
class AlikeFactory:
    """A maker of backends that refuses a model of another dtype or device than the first worker's.

    dtype and device follow from the machine where a spec does not name them, and the nodes of a cluster may differ.

    Attributes
    ----------
    make_backend : MakeBackend
        Makes a backend.
    models : mapping of str to dict
        Facts of the first worker's models, by spec string.
    """

    make_backend: MakeBackend
    models: Mapping[str, dict[str, str]]

    def __call__(self, spec: str) -> PlannerBackend:
        """Make a backend. Raise ``ValueError`` where its model is not like the first worker's."""
        backend = self.make_backend(spec)
        facts, first = _model_facts(backend), self.models.get(spec, {})
        if any(first.get(name) != fact for name, fact in facts.items()):
            raise ValueError(
                f"backend {spec!r} is {_listed(facts)} on {platform.node()}, {_listed(first)} in the first worker: results would "
                "be mixed. Give dtype and device in the spec, or use nodes that are alike"
            )
        return backend


def _listed(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {fact}" for name, fact in facts.items())


def _model_facts(backend: PlannerBackend) -> dict[str, str]:
    keeps_state = isinstance(backend, StatefulBackend)
    if not isinstance(backend, HasModel):
        return {}
    loaded = backend.loaded
    return {
        "name": loaded.identity.name,
        "model": loaded.identity.checksum,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": str(loaded.device),
        **getattr(loaded, "spread", {}),
        **({SESSIONS: "kept"} if keeps_state else {}),
    }


def _facts(spec: str, backend: PlannerBackend) -> dict[str, str]:
    facts = _model_facts(backend)
    if not isinstance(backend, HasModel):
        return {}
    if is_user_backend(spec):  # the meaning of its parameters is up to its factory
        return facts
    weights = _pruner_weights(spec, backend)
    files = {
        "pruner": weights,
        "cost": _cost_file(spec),
        "calibration": _calibration_file(backend, weights),
        "draft_head": _draft_head_weights(spec, backend),
    }
    return facts | {name: checksum(path) for name, path in files.items() if path is not None}


def _cost_file(spec: str) -> Path | None:
    """Return the file of the cost model; ``None`` for a backend without a latency budget."""
    from erecap.calibration.cost_model import DEFAULT_FILE  # imports torch, as a backend with a model has done already

    options = BackendSpec.parse(spec).options
    return Path(options.get("cost", DEFAULT_FILE)) if "budget_ms" in options else None


def _calibration_file(backend: HasModel, weights: Path | None) -> Path | None:
    """Return the file of the thresholds; ``None`` for a backend with another rule."""
    from erecap.calibration.thresholds import CALIBRATION_FILE  # imports torch

    by_threshold = getattr(getattr(backend, "schedule", None), "rule", None) == "threshold"
    return weights.parent / CALIBRATION_FILE if by_threshold and weights is not None else None


def _pruner_weights(spec: str, backend: HasModel) -> Path | None:
    """Return the weights file of the pruner; ``None`` for a backend without a pruner."""
    from erecap.models.loading import bundled_pruner_dir  # imports torch, as a backend with a model has done already
    from erecap.models.pruner import WEIGHTS_FILE
    from erecap.selectors import USE_PRUNER

    options = BackendSpec.parse(spec).options
    if getattr(backend, "selector", None) is None or options.get("selector", "learned") not in USE_PRUNER:
        return None
    return Path(options.get("pruner", bundled_pruner_dir())) / WEIGHTS_FILE


def _draft_head_weights(spec: str, backend: HasModel) -> Path | None:
    """Return the weights file of the draft head; ``None`` for a backend without one."""
    from erecap.models.draft_head import WEIGHTS_FILE  # imports torch
    from erecap.models.loading import bundled_draft_head_dir

    if getattr(backend, "head", None) is None:
        return None
    return Path(BackendSpec.parse(spec).options.get("draft_head", bundled_draft_head_dir())) / WEIGHTS_FILE


def ceiling_of(backend: PlannerBackend, answer: Generation) -> float | None:
    """Compute the largest speedup of prefill that the dropped tokens allow.

    Parameters
    ----------
    backend : PlannerBackend
        The backend that answered.
    answer : Generation
        Its answer, with ``layer_tokens``.

    Returns
    -------
    float or None
        FLOPs of the full prefill / FLOPs of the pruned one; ``None`` for a backend that runs no model in this process, and for one
        that keeps state between prompts, which does not run a whole prefill.
    """
    if isinstance(backend, StatefulBackend) or not isinstance(backend, HasModel) or not answer.layer_tokens:
        return None
    from erecap.calibration.flops import ceiling  # imports torch

    return ceiling(backend.loaded.model.config, answer.layer_tokens, answer.prompt_tokens)
