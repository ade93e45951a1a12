"""Backends by spec string: the expert, OpenAI endpoints, the engine's own, and those of a user's package."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from agents.expert_backend import ExpertBackend
from benchmarks.backends.hidden_specs import keep_secrets, specs_with_secrets
from benchmarks.backends.openai_backend import OpenAIBackend
from benchmarks.backends.user_backends import find_factory, is_import_path, make_user_backend
from planner import BackendSpec, PlanGrammar, PlannerBackend, Prompt, Sampling, Segment, StatefulBackend
from planner.grammar import whole_lines
from planner.redaction import redact

EXPERT = "expert"
_BASELINE = "baseline"
_WARM_UP = Prompt((Segment("user", "warm up"),))
_WARM_GRAMMAR = PlanGrammar((whole_lines("done"),), choices=("done", "explore"))


def _expert(spec: BackendSpec) -> PlannerBackend:
    if spec.params:
        raise ValueError(f"backend {str(spec)!r}: the expert takes no parameters: write 'expert'")
    return ExpertBackend()


def _engine(spec: BackendSpec) -> PlannerBackend:
    from transformers.utils import logging  # takes seconds: imports torch, which the expert does not need

    from erecap.backend import make_backend

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the run draws its own progress bars
    backend = make_backend(spec)
    # warm-up: the first call in a process is slow, and so is the first that avoids something, which indexes the vocabulary
    backend.generate(_WARM_UP, Sampling(max_new_tokens=2, avoid=("done",), grammar=_WARM_GRAMMAR))
    if isinstance(backend, StatefulBackend):
        backend.reset()
    return backend


MODEL_FREE: dict[str, Callable[[BackendSpec], PlannerBackend]] = {EXPERT: _expert, "openai": OpenAIBackend.from_spec}
"""Backends that run no model in this process, by name."""


def _engine_names() -> list[str]:
    from erecap.backend import BACKENDS  # takes seconds: imports torch

    return list(BACKENDS)


def backend_names() -> list[str]:
    """Return the names that a spec string may start with, besides import paths."""
    return [*MODEL_FREE, *_engine_names()]


def parse_specs(text: str) -> list[str]:
    """Split and check a list of backends.

    Parameters
    ----------
    text : str
        Spec strings, separated by commas.

    Returns
    -------
    list of str
        The spec strings, with secrets hidden: they name the backends in all files and messages. ``BackendFactory`` knows the rest.

    Raises
    ------
    ValueError
        Where there is none, one is malformed or unknown, or one is given twice.
    """
    specs = [keep_secrets(part) for part in _split(text) if part.strip()]
    if not specs:
        raise ValueError(f"backends {redact(text)!r} name none: write some, separated by commas, such as baseline,erecap?keep=0.7")
    for spec in specs:
        _check_known(BackendSpec.parse(spec))
    twice = sorted({spec for spec in specs if specs.count(spec) > 1})
    if twice:
        raise ValueError(f"backends {redact(text)!r} name {', '.join(twice)} twice: give each once")
    return specs


def _split(text: str) -> list[str]:
    """Split a list of specs at commas, but not at those inside the brackets of a JSON value."""
    parts, depth = [""], 0
    for character in text:
        depth = max(0, depth + (character in "{[") - (character in "}]"))
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def is_user_backend(spec: str) -> bool:
    """Tell whether a spec string names a backend of a user's package. Whether that runs a model is known after it is made."""
    return is_import_path(BackendSpec.parse(spec).name)


def runs_model(spec: str) -> bool:
    """Tell whether a spec string names a backend of the engine, which runs a model in this process."""
    name = BackendSpec.parse(spec).name
    return name not in MODEL_FREE and not is_import_path(name)


def choose_reference(backends: Sequence[str], user_models: Collection[str] = ()) -> str:
    """Choose the backend that the others are compared with.

    Parameters
    ----------
    backends : sequence of str
        Spec strings.
    user_models : collection of str
        Those of them that are user backends and run a model in this process.

    Returns
    -------
    str
        The first that exists of: the first ``baseline``, the first backend that runs a model in this process, the first that is
        not the expert, the expert.
    """
    others = [spec for spec in backends if spec != EXPERT]
    models = [spec for spec in others if runs_model(spec) or spec in user_models]
    baselines = [spec for spec in models if BackendSpec.parse(spec).name == _BASELINE]
    return (baselines or models or others or [EXPERT])[0]


@dataclass(frozen=True)
class BackendFactory:
    """A factory of backends from spec strings. It can be pickled, so that worker processes make their own backends.

    Attributes
    ----------
    threads : int or None
        CPU threads that a model of the engine may use; ``None`` leaves the choice to torch.
    secrets : dict of str to str
        Spec strings with their passwords and keys, by the spec string that hides them.
    """

    threads: int | None = None
    secrets: dict[str, str] = field(default_factory=specs_with_secrets, repr=False, hash=False)

    def __call__(self, text: str) -> PlannerBackend:
        """Make a backend.

        Parameters
        ----------
        text : str
            Spec string.

        Returns
        -------
        PlannerBackend
            The backend. A backend of the engine has been warmed up.

        Raises
        ------
        ValueError
            For an unknown name and for bad parameters.
        """
        spec = BackendSpec.parse(self.secrets.get(text, text))
        _check_known(spec)
        if is_import_path(spec.name):
            return make_user_backend(spec)
        if spec.name in MODEL_FREE:
            return MODEL_FREE[spec.name](spec)
        if self.threads is not None:
            import torch  # takes seconds

            torch.set_num_threads(self.threads)
        return _engine(spec)


def _check_known(spec: BackendSpec) -> None:
    if is_import_path(spec.name):
        find_factory(spec.name)
    elif spec.name not in MODEL_FREE and spec.name not in _engine_names():
        raise ValueError(
            f"backend {redact(spec.name)!r} is unknown: choose from {', '.join(backend_names())}, "
            "or write my_package.module:factory"
        )
