"""A planner with a model that fails on rank 1 in its fifth answer: ``failing_planner:make?kind=value|kill&model=DIR``."""

import os
import signal

from erecap.backend import make_backend
from planner import BackendSpec, Generation, LineCallback, PlannerBackend, Prompt, Sampling


class FailingPlanner:
    def __init__(self, inner: PlannerBackend, kind: str) -> None:
        self.inner, self.loaded, self.kind, self.answers = inner, inner.loaded, kind, 0

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        self.answers += 1
        if self.answers == 5 and os.environ["RANK"] == "1":
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this plan cannot be made")
        return self.inner.generate(prompt, sampling, on_line)


def make(spec: BackendSpec) -> FailingPlanner:
    inner = make_backend(BackendSpec.parse(f"baseline?dtype=float32&model={spec.options['model']}"))
    return FailingPlanner(inner, spec.options["kind"])
