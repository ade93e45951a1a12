"""Planner backends as a user would write them in a package of their own, for specs such as ``own_planner:make?skill=explore``."""

from typing import Any

from fake_play import FakeModel

from planner import BackendSpec, Generation, Prompt, Sampling

NUMBER = 3


class Scripted:
    """A backend that runs no model: it always answers with one skill."""

    def __init__(self, spec: BackendSpec) -> None:
        self.skill = spec.options.get("skill", "explore")

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: Any = None) -> Generation:
        return Generation(text=self.skill)


def make(spec: BackendSpec) -> Scripted:
    return Scripted(spec)


def make_model(spec: BackendSpec) -> FakeModel:
    """A backend with ``loaded``: it runs a model in this process."""
    return FakeModel(float(spec.options.get("keep", 1.0)))


def make_nothing(spec: BackendSpec) -> None:
    """A factory that forgets to return its backend."""
