"""Several episodes at once in one process, so that a model answers the prompts of all agents in one batch.

Each episode runs in a thread of its own. The planner answers when every agent that is still under way waits for a plan. So which
prompts share a batch depends on the episodes alone, not on the speed of the threads.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from planner import (
    AnswerFormat,
    BatchBackend,
    Generation,
    LineCallback,
    PlannerBackend,
    PlanRequest,
    Prompt,
    PromptTooLongError,
    Sampling,
    format_of,
)

T = TypeVar("T")
Play = Callable[[PlannerBackend], T]
"""Plays one episode with the backend that it is given."""


class AbandonedError(RuntimeError):
    """The error in an episode that ends because another one of its batch was interrupted."""


@dataclass
class _Waiting:
    """An agent that waits for a plan."""

    agent: int
    request: PlanRequest
    answer: Generation | Exception | None = None


@dataclass
class SharedBackend:
    """A backend that several agents share, each in a thread of its own.

    Attributes
    ----------
    backend : BatchBackend
        Answers the prompts.
    under_way : set of int
        Numbers of the agents that have not ended.
    """

    backend: BatchBackend
    under_way: set[int]
    _waiting: list[_Waiting] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _abandoned: bool = False

    def ask(self, agent: int, request: PlanRequest) -> Generation:
        """Wait until all agents that are under way ask, then return the answer to this one.

        Raises
        ------
        AbandonedError
            Where the episodes were abandoned meanwhile. What the backend raises is raised in every agent of the batch.
        """
        mine = _Waiting(agent, request)
        with self._changed:
            self._waiting.append(mine)
            self._changed.notify_all()
            self._changed.wait_for(lambda: mine.answer is not None or self._abandoned)
        if mine.answer is None:
            raise AbandonedError(f"agent {agent} got no plan, since the episodes played with it were interrupted: play it again")
        if isinstance(mine.answer, Exception):
            raise mine.answer
        return mine.answer

    def leave(self, agent: int) -> None:
        """End an agent's episode: the others no longer wait for it."""
        with self._changed:
            self.under_way.discard(agent)
            self._changed.notify_all()

    def abandon(self) -> None:
        """End all episodes at their next request."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def serve(self) -> Iterator[None]:
        """Answer batch after batch until all episodes have ended; yield after each. The model runs in the thread that iterates."""
        while batch := self._next_batch():
            answers = self._answers([one.request for one in batch])
            with self._changed:
                for one, answer in zip(batch, answers, strict=True):
                    one.answer = answer
                self._changed.notify_all()
            yield

    def _next_batch(self) -> list[_Waiting]:
        """Wait until all agents that are under way wait for a plan, and take them; none where all have ended."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) == len(self.under_way))
            batch, self._waiting = sorted(self._waiting, key=lambda one: one.agent), []
        return batch

    def _answers(self, requests: Sequence[PlanRequest]) -> Sequence[Generation | Exception]:
        try:
            return self.backend.generate_batch(requests)
        except PromptTooLongError:  # ends the episode of that prompt alone
            return [self._alone(request) for request in requests]
        except Exception as error:  # raised in the thread of each agent
            return [error] * len(requests)

    def _alone(self, request: PlanRequest) -> Generation | Exception:
        try:
            return self.backend.generate(request.prompt, request.sampling, request.on_line)
        except Exception as error:  # raised in the thread of its agent
            return error


@dataclass(frozen=True)
class _Seat:
    """One agent's backend."""

    agent: int
    shared: SharedBackend

    @property
    def answer_format(self) -> AnswerFormat:
        """How the shared backend answers (``FormattedBackend``)."""
        return format_of(self.shared.backend)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Answer with the next batch (``PlannerBackend``)."""
        return self.shared.ask(self.agent, PlanRequest(prompt, sampling, on_line))


def play_together(plays: Sequence[Play[T]], backend: BatchBackend) -> Iterator[tuple[int, T]]:
    """Play episodes at once, with a backend that answers the prompts of all of them together.

    Closing the iterator ends the episodes under way at their next request.

    Parameters
    ----------
    plays : sequence of callable
        Each plays one episode with the backend that it is given.
    backend : BatchBackend
        Answers the prompts, in the thread that iterates.

    Yields
    ------
    tuple of int and object
        An episode's place in ``plays``, and what it returned, soon after it ended.

    Raises
    ------
    Exception
        What an episode raised. The others then end at their next request.
    """
    shared = SharedBackend(backend, set(range(len(plays))))
    with ThreadPoolExecutor(max(len(plays), 1), "episode") as pool:
        left = {number: pool.submit(_play, play, _Seat(number, shared)) for number, play in enumerate(plays)}
        try:
            for _ in shared.serve():
                yield from _finished(left, [number for number, future in left.items() if future.done()])
            yield from _finished(left, list(left))
        except BaseException:
            shared.abandon()
            raise


def _finished(left: dict[int, Future[T]], numbers: Sequence[int]) -> Iterator[tuple[int, T]]:
    for number in numbers:
        yield number, left.pop(number).result()


def _play(play: Play[T], seat: _Seat) -> T:
    try:
        return play(seat)
    finally:
        seat.shared.leave(seat.agent)
