"""Acting before the plan is complete: a backend answers in a thread of its own, and its first line is known while it goes on."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

from agents.world import Call, Outcome
from agents.world_extras import Reader
from planner import Generation, PlannerBackend, PlanRequest, Prompt, Sampling

_PATIENCE_S = 5.0
"""Most seconds that an interrupted episode waits for the next line of an answer that nobody reads any more."""


@dataclass(frozen=True)
class Done:
    """One line of a plan, carried out."""

    outcome: Outcome
    """How it ended."""
    env_steps: int
    """Environment steps that it took."""
    reward: float
    """Sum of their rewards."""


@dataclass(frozen=True)
class Ahead:
    """The first line of a plan, carried out while the planner wrote the rest."""

    call: Call
    """The line."""
    done: Done
    """How it ended, and what it took."""
    known: float
    """When the line was known, by ``time.perf_counter`` in seconds."""
    rest_s: float
    """Seconds that the agent waited for the rest of the answer after the line had ended."""


@dataclass(frozen=True)
class Answer:
    """A backend's answer, and what happened while it came."""

    generation: Generation
    """The answer."""
    backend_s: float
    """Seconds inside the backend."""
    ahead: Ahead | None = None
    """The line that was carried out meanwhile, if one was."""


class _NobodyReadsError(RuntimeError):
    """Ends an answer that nobody reads any more."""


@dataclass(frozen=True)
class _End:
    generation: Generation | None
    error: BaseException | None
    backend_s: float


class AnswerThread:
    """Asks a backend in one thread, which ends with ``close``. One answer at a time.

    Parameters
    ----------
    backend
        Answers. Between a call of ``answer`` and its return no other thread may use it.
    """

    def __init__(self, backend: PlannerBackend) -> None:
        self._backend = backend
        self._asked: queue.SimpleQueue[PlanRequest | None] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[str | _End] = queue.SimpleQueue()
        self._end: _End | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="planner")

    def answer(self, prompt: Prompt, sampling: Sampling, reader: Reader, carry_out: Callable[[Call], Done]) -> Answer:
        """Answer a prompt. As soon as the first call of the plan is certain, carry it out in the calling thread.

        Parameters
        ----------
        prompt
            The chat to answer.
        sampling
            How to decode.
        reader
            Reads the lines as they come.
        carry_out
            Carries out a call.

        Returns
        -------
        Answer
            The whole answer; where it is complete only after the call has ended, it is waited for.
        """
        if self._thread.ident is None:
            self._thread.start()
        self._end = None
        self._asked.put(PlanRequest(prompt, sampling, self._pass_on))
        call = self._first_call(reader)
        if call is None:
            return Answer(*self._result())
        known = perf_counter()
        done = carry_out(call)
        ended = perf_counter()
        generation, backend_s = self._result()
        return Answer(generation, backend_s, Ahead(call, done, known, perf_counter() - ended))

    def _first_call(self, reader: Reader) -> Call | None:
        """Wait until the first call of the answer is certain; ``None`` where the answer ends before."""
        so_far = ""
        for line in self._lines():
            so_far += f"{line}\n"
            call = reader.first(so_far)
            if call is not None:
                return call
        return None

    def _lines(self) -> Iterator[str]:
        """Yield each line of the answer as soon as it is complete, until the answer ends."""
        while self._end is None:
            news = self._news.get()
            if isinstance(news, _End):
                self._end = news
            else:
                yield news

    def _result(self) -> tuple[Generation, float]:
        """Wait for the end of the answer; return it and the seconds inside the backend. What the backend raised is raised here."""
        for _ in self._lines():
            pass
        end = self._end
        assert end is not None, "the lines end with it"
        if end.error is not None:
            raise end.error
        assert end.generation is not None, "an answer without an error"
        return end.generation, end.backend_s

    def close(self) -> None:
        """End the thread. An answer under way ends at its next line; one that has none for seconds is left behind."""
        self._left.set()
        if self._thread.ident is not None:
            self._asked.put(None)
            self._thread.join(_PATIENCE_S)

    def _work(self) -> None:
        while (request := self._asked.get()) is not None:
            begin = perf_counter()
            generation, raised = None, None
            try:
                generation = self._backend.generate(request.prompt, request.sampling, request.on_line)
            except BaseException as error:  # raised in the thread that reads the answer
                raised = error
            self._news.put(_End(generation, raised, perf_counter() - begin))

    def _pass_on(self, line: str) -> None:
        if self._left.is_set():
            raise _NobodyReadsError("the episode has ended")
        self._news.put(line)
