"""Backends whose model is divided among the ranks of a launch: rank 0 plays and plans, the others run their part of the model.

Rank 0 tells the others what it is about to do: make a backend, answer a prompt, leave. They do the same and drop the result.
"""

import signal
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from agents.runner import MakeBackend
from benchmarks.backends.hidden_specs import with_secrets
from benchmarks.backends.models import HasModel
from erecap.distributed.ranks import Ranks
from planner import Generation, LineCallback, PlannerBackend, Prompt, PromptTooLongError, Sampling


@dataclass(frozen=True)
class _Make:
    """Rank 0 is about to make a backend.

    Attributes
    ----------
    number
        Number by which later messages name the backend.
    spec
        Its spec string.
    """

    number: int
    spec: str = field(repr=False)  # with its secrets


@dataclass(frozen=True)
class _Answer:
    """Rank 0 is about to answer a prompt.

    Attributes
    ----------
    number
        Number of the backend.
    prompt, sampling
        What ``generate`` is given.
    """

    number: int
    prompt: Prompt
    sampling: Sampling


@dataclass(frozen=True)
class _Message:
    """What rank 0 sends.

    Attributes
    ----------
    action
        What it is about to do; ``None`` for nothing more.
    dropped
        Numbers of the backends that it has dropped since the last message.
    """

    action: _Make | _Answer | None
    dropped: tuple[int, ...] = ()


@dataclass
class Leader:
    """Rank 0's side: a maker of backends whose every step the other ranks follow.

    Attributes
    ----------
    ranks
        The ranks.
    make
        Makes a backend in this process.
    """

    ranks: Ranks
    make: MakeBackend
    _numbers: "count[int]" = field(default_factory=count)
    _dropped: list[int] = field(default_factory=list)

    def __call__(self, spec: str) -> PlannerBackend:
        """Make a backend on all ranks. One that runs no model is used on rank 0 only."""
        number = next(self._numbers)
        with self.ranks.step():
            self._send(_Make(number, with_secrets(spec)))
            backend = self.make(spec)
        if not isinstance(backend, HasModel):
            self._dropped.append(number)
            return backend
        led = LedBackend(backend, lambda prompt, sampling: self._send(_Answer(number, prompt, sampling)), self.ranks)
        # No message is sent from here: a backend may be dropped while another message is on its way.
        weakref.finalize(led, self._dropped.append, number)
        return led

    def end(self) -> None:
        """Let the others leave."""
        if self.ranks.in_step:
            self._send(None)

    def _send(self, action: _Make | _Answer | None) -> None:
        dropped = tuple(self._dropped)
        del self._dropped[: len(dropped)]
        self.ranks.share(_Message(action, dropped))


@dataclass(eq=False)
class LedBackend:
    """A backend of rank 0 that tells the other ranks each prompt before it answers. All else is the backend's own.

    Attributes
    ----------
    backend
        The backend in this process.
    announce
        Tells the others what is to be answered.
    ranks
        The ranks.
    """

    backend: Any
    announce: Callable[[Prompt, Sampling], None]
    ranks: Ranks

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Answer a prompt together with the other ranks (``PlannerBackend.generate``)."""
        with self.ranks.step(PromptTooLongError):  # which every rank raises, before it runs a layer
            self.announce(prompt, sampling)
            answer: Generation = self.backend.generate(prompt, sampling, on_line)
        return answer

    @property
    def loaded(self) -> Any:
        """The model in this process (``HasModel``)."""
        return self.backend.loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


def follow(ranks: Ranks, make: MakeBackend) -> None:
    """Do what rank 0 does, until it sends nothing more. Ctrl-C is rank 0's business.

    Parameters
    ----------
    ranks
        The ranks; this process is not rank 0.
    make
        Makes a backend in this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    made: dict[int, Any] = {}
    while (message := _receive(ranks)).action is not None:
        for number in message.dropped:
            made.pop(number, None)
        if isinstance(message.action, _Make):
            made[message.action.number] = make(message.action.spec)
        else:
            _answer(made[message.action.number], message.action)


def _receive(ranks: Ranks) -> _Message:
    return ranks.share(_Message(None))  # what this rank passes is not looked at


def _answer(backend: PlannerBackend, asked: _Answer) -> None:
    try:
        backend.generate(asked.prompt, asked.sampling)
    except PromptTooLongError:
        return  # rank 0 raises it too, before any layer has run
