"""An answer that arrives in chunks from an endpoint. Nothing in a chunk is trusted to have the form that the protocol gives it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.backends.remote_errors import RemoteBackendError, message_in, words_of
from planner import Generation, LineCallback
from planner.redaction import hide
from planner.surrogates import join_surrogates

_SHORTEST_SECRET = 6
"""Characters of the shortest secret that is hidden in an answer: a model writes short ones as ordinary words."""


@dataclass
class RemoteAnswer:
    """The part of an answer that has arrived, with the times of arrival.

    Attributes
    ----------
    on_line : callable or None
        Called with each complete line that is not blank: not with the last one of an answer that was cut.
    secrets : sequence of str
        Secrets that the text of the answer must not repeat.
    """

    on_line: LineCallback | None
    secrets: Sequence[str] = field(default=(), repr=False)
    raw: str = ""
    lines: int = 0
    usage: Any = None
    pieces: int = 0
    answered: bool = False
    finish: str | None = None
    complete: bool = False
    last: Any = None
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    first_line: float | None = None

    def take(self, chunk: Any) -> None:
        """Take in one chunk.

        Raises
        ------
        RemoteBackendError
            For an error of the server in the stream, and for what is no chunk.
        """
        choices, usage = part(chunk, "choices"), part(chunk, "usage")
        self._refuse_errors(chunk, choices)
        self.usage = usage or self.usage
        choice = next((c for c in choices if c is not None), None) if isinstance(choices, (list, tuple)) else None
        if choice is None:
            self.complete = self.complete or usage is not None
            return
        self.answered = True
        finish = part(choice, "finish_reason")
        self.finish = finish if isinstance(finish, str) and finish else self.finish
        self._add(text_in(part(part(choice, "delta"), "content")))

    def _refuse_errors(self, chunk: Any, choices: Any) -> None:
        error = part(chunk, "error") or (chunk if part(chunk, "object") == "error" else None)
        if error is not None:
            names = ("message", "detail", "code", "type")
            body = error if isinstance(error, (dict, str, list)) else {name: part(error, name) for name in names}
            said = words_of(message_in(body) or str(error))
            raise RemoteBackendError(f"the server reported an error in its stream: {said}", body)
        if isinstance(chunk, (str, bytes, int, float, list)) or (choices is not None and not isinstance(choices, (list, tuple))):
            raise RemoteBackendError(f"the server sent what is no chunk of an answer: {words_of(str(chunk))}")
        self.last = chunk

    def _add(self, content: str) -> None:
        if content:
            self.first = self.first or time.perf_counter()
            self.pieces += 1
            self.raw += content
            self._report_lines(self.text.split("\n")[:-1])

    def finished(self) -> Generation:
        """Return the whole answer.

        Raises
        ------
        RemoteBackendError
            Where no chunk came, or the stream ended before the answer did.
        """
        end = time.perf_counter()
        if not self.answered:
            raise RemoteBackendError(
                f"the server sent no chunk of an answer{'' if self.last is None else f', only {words_of(str(self.last))}'}"
            )
        if self.finish is None and not self.complete:
            said = f"its last text is {self.text[-80:]!r}" if self.raw else "it had no text"
            raise RemoteBackendError(f"the stream was cut: it ended without a finish_reason after {self.pieces} pieces, {said}")
        if self.finish == "error":
            raise RemoteBackendError(f"the server ended its answer with an error: {words_of(str(self.last))}")
        lines, cut = self.text.split("\n"), self.finish == "length"
        self._report_lines(lines[:-1] if cut else lines)
        first = self.first or end
        return Generation(
            text=self.text,
            prompt_tokens=count_in(self.usage, "prompt_tokens", 0),
            new_tokens=count_in(self.usage, "completion_tokens", self.pieces),
            ttft_s=first - self.started,
            first_skill_s=(self.first_line or end) - self.started,
            decode_s=end - first,
            total_s=end - self.started,
            truncated=cut,
        )

    @property
    def text(self) -> str:
        """The text so far, with whole characters and without secrets."""
        return hide(join_surrogates(self.raw), self.secrets, _SHORTEST_SECRET)

    def _report_lines(self, complete: list[str]) -> None:
        """Call ``on_line`` with the lines that have been completed since the last call."""
        for line in complete[self.lines :]:
            if line.strip():
                self.first_line = self.first_line or time.perf_counter()
                if self.on_line is not None:
                    self.on_line(line)
        self.lines = len(complete)


def part(value: Any, name: str) -> Any:
    """Return a field of a chunk, which may be an object or a dictionary; ``None`` where it has none."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def text_in(content: Any) -> str:
    """Return the text of a content: a text, or a list of parts with texts."""
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        return "".join(text_in(item if isinstance(item, str) else part(item, "text")) for item in content)
    return ""


def count_in(usage: Any, name: str, otherwise: int) -> int:
    """Return a number of tokens that the server reports; ``otherwise`` where it is no such number."""
    value = part(usage, name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise
