"""A planner behind an OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, a hosted model): ``openai?base_url=...&model=...``.

Times are measured in this process, so they include the network. The server reports neither kept tokens nor KV memory, so
these fields of the ``Generation`` keep their defaults.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from benchmarks.backends.openai_options import Request, make_client, read_options
from benchmarks.backends.remote_answer import RemoteAnswer
from benchmarks.backends.remote_errors import RemoteBackendError, body_of, causes_of, codes_in, is_too_long, message_in, words_of
from benchmarks.backends.time_limit import within
from planner import BackendSpec, Generation, LineCallback, Prompt, PromptTooLongError, Sampling
from planner.redaction import redact

__all__ = ["OpenAIBackend", "RemoteBackendError"]

T = TypeVar("T")
_EVENTS = "text/event-stream"


@dataclass(frozen=True)
class OpenAIBackend:
    """A planner that streams chat completions from an endpoint.

    Attributes
    ----------
    client : openai.OpenAI
        The client, or any object with its ``chat.completions.create``.
    model : str
        Name of the model at the endpoint.
    name : str
        The spec that the backend was made from, without secrets.
    request : Request
        How requests are written.
    limit_s : float
        Most seconds of a whole answer, retries included.
    secrets : tuple of str
        What must stand in no answer and no message.
    """

    client: Any = field(repr=False)
    model: str
    name: str = "openai"
    request: Request = field(default_factory=Request)
    limit_s: float = 600.0
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def from_spec(cls, spec: BackendSpec) -> "OpenAIBackend":
        """Make the backend.

        Parameters
        ----------
        spec : BackendSpec
            Its parameters: ``base_url``, ``model``; ``api_key`` (by default OPENAI_API_KEY); ``timeout_s``, most seconds of silence
            (120), and ``limit_s``, most seconds of an answer (600); for servers that refuse a parameter ``max_tokens_name``,
            ``temperature``, ``seed=none``, ``stream_options=none`` and ``extra`` (a JSON object).

        Returns
        -------
        OpenAIBackend
            The backend.

        Raises
        ------
        ValueError
            For missing or unknown parameters, for a missing key, and where the ``openai`` extra is not installed.
        """
        options = read_options(spec)
        return cls(make_client(options), options.model, str(spec), options.request, options.limit_s, options.secrets)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Ask for one chat completion.

        Parameters
        ----------
        prompt : Prompt
            The prompt; each segment becomes a message.
        sampling : Sampling
            Settings of the decode.
        on_line : callable, optional
            Called with each line of the answer as soon as it is complete; blank lines are skipped.

        Returns
        -------
        Generation
            The answer with its times in seconds.

        Raises
        ------
        ValueError
            For ``ignore_eos``.
        PromptTooLongError
            Where the prompt does not fit into the model's context.
        RemoteBackendError
            If the endpoint cannot be reached, refuses the request, or sends no whole answer.
        """
        if sampling.ignore_eos:
            raise ValueError("ignore_eos=True: an OpenAI endpoint ends its answers itself; compare timings on local backends")
        answer = RemoteAnswer(on_line, self.secrets)
        for chunk in self._chunks(prompt, sampling):
            self._explained(answer.take, chunk)
        return self._explained(answer.finished)

    def _explained(self, read: Callable[..., T], *arguments: Any) -> T:
        """Call ``read``; where what the server sent is no answer, say which backend it was."""
        try:
            return read(*arguments)
        except RemoteBackendError as error:
            self._translate(error)

    def _chunks(self, prompt: Prompt, sampling: Sampling) -> Iterator[Any]:
        """Pass on the chunks of an answer. Whatever the client raises becomes an error of this backend."""
        arriving = within(self.limit_s, lambda: self._stream(prompt, sampling))
        while True:
            try:
                chunk = next(arriving)
            except StopIteration:
                return
            except Exception as error:  # the client and its transport raise anything, for each fault of a server something else
                self._translate(error)
            yield chunk

    def _stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Any]:
        messages = prompt.messages()
        stream = self.client.chat.completions.create(model=self.model, messages=messages, **self.request.parameters(sampling))
        _refuse_other_content(getattr(stream, "response", None))
        yield from stream

    def _translate(self, error: Exception) -> NoReturn:
        """Raise the error of this backend that an error of the client, or of reading an answer, stands for."""
        body, status = getattr(error, "body", None), getattr(error, "status_code", None)
        if isinstance(error, RemoteBackendError):
            self._raise(codes_in(body), words_of(message_in(body)), None, str(error))
        if isinstance(error, json.JSONDecodeError):
            self._refuse(f"the server sent what is no JSON: {words_of(error.doc) or '(nothing)'}")
        response = getattr(error, "response", None)
        words = words_of(
            message_in(body) or (response.text if status is not None and response is not None else "") or causes_of(error)
        )
        codes = [*codes_in(body), str(getattr(error, "code", None) or "").lower()]
        self._raise(codes, words, status, words if status is None else f"HTTP {status}: {words}")

    def _raise(self, codes: list[str], words: str, status: int | None, otherwise: str) -> NoReturn:
        """Raise ``PromptTooLongError`` where codes and words of the server mean that; else refuse with the other message."""
        if is_too_long(codes, words, status):
            raise PromptTooLongError(redact(f"backend {self.name!r}, model {self.model!r}: {words}", self.secrets)) from None
        self._refuse(otherwise)

    def _refuse(self, words: str) -> NoReturn:
        raise RemoteBackendError(
            redact(
                f"backend {self.name!r}, model {self.model!r}: {words}; check base_url, model and that the server runs; for a "
                "parameter that it rejects see max_tokens_name, temperature=none, seed=none and extra",
                self.secrets,
            )
        ) from None


def _refuse_other_content(response: Any) -> None:
    """Refuse a response that is no stream of events, with what it says."""
    kind = str(response.headers.get("content-type", "")) if response is not None else _EVENTS
    if kind.lower().startswith(_EVENTS):
        return
    text = response.read().decode("utf-8", "replace")
    if not any(line.startswith("data:") for line in text.splitlines()):
        said = f"sent {kind or 'no content type'} instead of a stream of events ({_EVENTS}): {words_of(text) or '(nothing)'}"
        raise RemoteBackendError(f"the server {said}", body_of(text))
