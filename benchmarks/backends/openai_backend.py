"""A planner behind an OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, a hosted model): ``openai?base_url=...&model=...``.

Times are measured in this process, so they include the network. The server reports neither kept tokens nor KV memory, so
these fields of the ``Generation`` keep their defaults.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from planner import BackendSpec, Generation, LineCallback, Prompt, PromptTooLongError, Sampling

_OPTIONS = ("base_url", "model", "timeout_s")


class RemoteBackendError(ValueError):
    """An error for an endpoint that could not be reached, or that refused the request."""


@dataclass(frozen=True)
class OpenAIBackend:
    """A planner that streams chat completions from an endpoint.

    Attributes
    ----------
    client : openai.OpenAI
        The client, or any object with its ``chat.completions.create``.
    model : str
        Name of the model at the endpoint.
    """

    client: Any
    model: str

    @classmethod
    def from_spec(cls, spec: BackendSpec) -> "OpenAIBackend":
        """Make the backend; the client reads the key from OPENAI_API_KEY.

        Parameters
        ----------
        spec : BackendSpec
            Its parameters: ``base_url``, ``model`` and ``timeout_s`` (seconds, default 120).

        Returns
        -------
        OpenAIBackend
            The backend.

        Raises
        ------
        ValueError
            For missing or unknown parameters, for a missing key, and where the ``openai`` extra is not installed.
        """
        options = spec.options
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ValueError(f"backend {str(spec)!r}: unknown parameters {', '.join(unknown)}: choose from {', '.join(_OPTIONS)}")
        if not options.get("model"):
            raise ValueError(f"backend {str(spec)!r} names no model: write openai?base_url=http://localhost:8000/v1&model=NAME")
        return cls(_client(options.get("base_url"), _seconds(options.get("timeout_s", "120"))), options["model"])

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
            If the endpoint cannot be reached or refuses the request.
        """
        if sampling.ignore_eos:
            raise ValueError("ignore_eos=True: an OpenAI endpoint ends its answers itself; compare timings on local backends")
        answer = _Answer(on_line)
        for chunk in self._stream(prompt, sampling):
            answer.take(chunk)
        return answer.finish()

    def _stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Any]:
        import openai  # an optional extra

        try:
            yield from self.client.chat.completions.create(
                model=self.model,
                messages=prompt.messages(),
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                seed=sampling.seed,
                stream=True,
                stream_options={"include_usage": True},
            )
        except openai.OpenAIError as error:
            if isinstance(error, openai.BadRequestError) and "context" in f"{error.code} {error}".lower():
                raise PromptTooLongError(f"model {self.model!r}: {error}") from error
            raise RemoteBackendError(f"model {self.model!r}: {error}; check base_url, model and that the server runs") from error


@dataclass
class _Answer:
    """The part of an answer that has arrived, with the times of arrival."""

    on_line: LineCallback | None
    text: str = ""
    lines: int = 0
    usage: Any = None
    chunks: int = 0
    truncated: bool = False
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    first_line: float | None = None

    def take(self, chunk: Any) -> None:
        self.usage = getattr(chunk, "usage", None) or self.usage
        self.truncated = self.truncated or bool(chunk.choices and getattr(chunk.choices[0], "finish_reason", None) == "length")
        content = chunk.choices[0].delta.content if chunk.choices else None
        if not content:
            return
        self.first = self.first or time.perf_counter()
        self.chunks += 1
        self.text += content
        self._report_lines(self.text.split("\n")[:-1])

    def finish(self) -> Generation:
        end = time.perf_counter()
        self._report_lines(self.text.split("\n"))
        first = self.first or end
        return Generation(
            text=self.text,
            prompt_tokens=self.usage.prompt_tokens if self.usage else 0,
            new_tokens=self.usage.completion_tokens if self.usage else self.chunks,
            ttft_s=first - self.started,
            first_skill_s=(self.first_line or end) - self.started,
            decode_s=end - first,
            total_s=end - self.started,
            truncated=self.truncated,
        )

    def _report_lines(self, complete: list[str]) -> None:
        """Call ``on_line`` with the lines that have been completed since the last call."""
        for line in complete[self.lines :]:
            if line.strip():
                self.first_line = self.first_line or time.perf_counter()
                if self.on_line is not None:
                    self.on_line(line)
        self.lines = len(complete)


def _client(base_url: str | None, timeout_s: float) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ValueError("backend openai needs the client: pip install 'erecap[openai]'") from error
    try:
        return openai.OpenAI(base_url=base_url, timeout=timeout_s)
    except openai.OpenAIError as error:
        raise ValueError(f"backend openai: {error} (a local server takes any key: OPENAI_API_KEY=none)") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise ValueError(f"timeout_s={text!r} is no number: give seconds, such as timeout_s=120") from error
    if seconds <= 0:
        raise ValueError(f"timeout_s={text} must be positive: give seconds, such as timeout_s=120")
    return seconds
