"""Spec strings to backends: where the expert, the engine's backends and remote models come together."""

from collections.abc import Callable
from dataclasses import dataclass

from agents.expert import ExpertBackend
from benchmarks.backends.openai_backend import OpenAIBackend
from planner import BackendSpec, PlannerBackend, Prompt, Sampling, Segment

EXPERT = "expert"
_WARM_UP = Prompt((Segment("user", "warm up"),))


def _expert(spec: BackendSpec) -> PlannerBackend:
    if spec.params:
        raise ValueError(f"backend {str(spec)!r}: the expert takes no parameters: write 'expert'")
    return ExpertBackend()


def _engine(spec: BackendSpec) -> PlannerBackend:
    from transformers.utils import logging  # takes seconds: imports torch, which the expert does without

    from erecap.backend import make_backend

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the bars here are the run's own
    backend = make_backend(spec)
    backend.generate(_WARM_UP, Sampling(max_new_tokens=2))  # the first call of a process pays for more than itself
    return backend


MODEL_FREE: dict[str, Callable[[BackendSpec], PlannerBackend]] = {EXPERT: _expert, "openai": OpenAIBackend.from_spec}


def engine_names() -> list[str]:
    """Names of the backends that run a model in this process, and can be timed on recorded prompts."""
    from erecap.backend import BACKENDS  # see _engine

    return list(BACKENDS)


def backend_names() -> list[str]:
    """All names that a spec string may start with."""
    return [*MODEL_FREE, *engine_names()]


def parse_specs(text: str) -> list[str]:
    """Comma-separated spec strings. Raises ``ValueError`` for an unknown name, a malformed spec, or the same one twice."""
    specs = [part.strip() for part in text.split(",") if part.strip()]
    if not specs:
        raise ValueError(f"backends {text!r} name none: write some, separated by commas, such as baseline,erecap?keep=0.7")
    for spec in specs:
        _known(BackendSpec.parse(spec))
    twice = sorted({spec for spec in specs if specs.count(spec) > 1})
    if twice:
        raise ValueError(f"backends {text!r} name {', '.join(twice)} twice: give each once")
    return specs


def runs_model(spec: str) -> bool:
    """Whether the backend runs a model in this process."""
    return BackendSpec.parse(spec).name not in MODEL_FREE


@dataclass(frozen=True)
class BackendFactory:
    """Makes a backend from its spec string, in whichever process it is called; picklable.

    ``threads`` is the number of CPU threads that a model may use there, ``None`` for torch's own choice.
    """

    threads: int | None = None

    def __call__(self, text: str) -> PlannerBackend:
        """The backend. Raises ``ValueError`` for an unknown name, and whatever its parameters do."""
        spec = BackendSpec.parse(text)
        _known(spec)
        if spec.name in MODEL_FREE:
            return MODEL_FREE[spec.name](spec)
        if self.threads is not None:
            import torch  # see _engine

            torch.set_num_threads(self.threads)
        return _engine(spec)


def _known(spec: BackendSpec) -> None:
    if spec.name not in MODEL_FREE and spec.name not in engine_names():
        raise ValueError(f"backend {spec.name!r} is unknown: choose from {', '.join(backend_names())}")
