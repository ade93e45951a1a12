"""Planner backends that end badly: one kills its process once, one says that it has begun its second answer, and hangs."""

import os
import threading
from pathlib import Path
from typing import Any

from planner import BackendSpec, Generation, Prompt, Sampling


class Mortal:
    """The first answer kills the process and leaves a mark; who sees the mark lives."""

    def __init__(self, spec: BackendSpec) -> None:
        self.mark = Path(spec.options["marks"]) / "died"

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: Any = None) -> Generation:
        if not self.mark.exists():
            self.mark.touch()
            os._exit(9)
        return Generation(text="explore")


class Hanging:
    """Plays one episode, in which it only explores, and hangs in the next one."""

    def __init__(self, spec: BackendSpec) -> None:
        self.pipe, self.seen = spec.options["pipe"], ""

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: Any = None) -> Generation:
        task = prompt.segments[1].text
        self.seen = self.seen or task
        if task != self.seen:
            Path(self.pipe).write_text("hangs")
            threading.Event().wait()
        return Generation(text="explore")


def make(spec: BackendSpec) -> Mortal:
    return Mortal(spec)


def make_hanging(spec: BackendSpec) -> Hanging:
    return Hanging(spec)
