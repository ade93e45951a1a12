"""The protocol of a planner's backend: a prompt goes in, an answer with its measurements comes out.

It knows no models, tokenizers or devices. Each backend measures its own times: seconds of wall clock, with the device synchronized.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from planner.grammar import AnswerFormat, PlanGrammar
from planner.prompt import Prompt

LineCallback = Callable[[str], None]
"""Takes one complete line of an answer, without its line break."""


class PromptTooLongError(ValueError):
    """An error for a prompt that does not fit into the backend's context with its answer. It ends the episode, not the run."""


@dataclass(frozen=True)
class Sampling:
    """How to decode an answer. Raises ``ValueError`` for a value out of range."""

    max_new_tokens: int = 256
    """Most tokens to decode, at least 1."""
    temperature: float = 0.0
    """Temperature of the softmax that tokens are drawn from, at least 0; 0 is greedy decoding."""
    seed: int = 0
    """Seed of the draws; without effect in greedy decoding."""
    ignore_eos: bool = False
    """Whether to decode exactly ``max_new_tokens``, past any end-of-sequence token, so that timings compare equal work."""
    avoid: tuple[str, ...] = ()
    """Beginnings that the answer must not have: whole lines of plans that were tried and changed nothing. A backend that cannot ban
    tokens leaves them out."""
    grammar: PlanGrammar | None = field(default=None, repr=False)
    """What the plan can be. A backend that answers in a format needs it (``FormattedBackend``); others do not read it."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1: ask for one token or more")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative: use 0 for greedy decoding")
        if not all(text.strip() for text in self.avoid):
            raise ValueError(f"avoid={self.avoid!r} holds an empty text, with which every answer begins: give whole lines")

    @property
    def shared(self) -> "Sampling":
        """What prompts must have in common to be decoded in one batch: all but what holds for one answer alone."""
        return replace(self, avoid=(), grammar=None)


@dataclass(frozen=True)
class Generation:
    """One answer of a backend and what it cost.

    A backend without layers (the expert, a remote model) leaves ``stage_tokens`` and ``layer_tokens`` empty. A backend without a
    latency budget leaves ``budget_s``, ``predicted_s`` and ``budget_met`` at ``None``.
    """

    text: str
    """The answer."""
    prompt_tokens: int = 0
    """Tokens of the prompt."""
    new_tokens: int = 0
    """Tokens of the answer."""
    stage_tokens: tuple[int, ...] = ()
    """Prompt tokens that survived each pruning stage."""
    layer_tokens: tuple[int, ...] = ()
    """Prompt tokens that entered each layer."""
    reused_tokens: int = 0
    """Prompt tokens taken from an earlier prompt's KV cache."""
    ttft_s: float = 0.0
    """Seconds from the prompt's submission until the first token is known."""
    first_skill_s: float = 0.0
    """Seconds from the prompt's submission until the first line is complete."""
    decode_s: float = 0.0
    """Seconds of decoding after the first token."""
    total_s: float = 0.0
    """Seconds from the prompt's submission until the end of the answer."""
    tokenize_s: float = 0.0
    """Seconds of tokenizing the prompt; ``ttft_s`` includes them."""
    kv_bytes: int = 0
    """Bytes of the prompt's KV cache."""
    peak_memory_bytes: int = 0
    """Most bytes of device memory in use at a time; 0 where the backend does not measure it."""
    truncated: bool = False
    """Whether the answer was cut at ``max_new_tokens``, so that its last line may be incomplete."""
    schedule: str = ""
    """Stages and keep ratios of the pruning, in short; empty where there is none."""
    budget_s: float | None = None
    """The latency budget of the answer in seconds."""
    predicted_s: float | None = None
    """Seconds that the answer was expected to take at most, under the schedule chosen for the budget."""
    budget_met: bool | None = None
    """Whether ``predicted_s`` was within ``budget_s``."""
    drafts: tuple[tuple[int, int], ...] = ()
    """Tokens drafted and accepted in each forward pass; empty for a backend that drafts nothing."""
    format: AnswerFormat = "free"
    """How the answer was given."""
    choices: int = 0
    """Lines that were scored, where one was chosen."""
    choice_score: float | None = None
    """Log-likelihood in nats of the chosen line with either end (end token, line break), over its number of tokens; ``None`` where
    none was chosen."""
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    """Ids of the answer's tokens in the model's vocabulary."""

    @property
    def complete_text(self) -> str:
        """The answer without a last line that was cut."""
        return self.text.rpartition("\n")[0] if self.truncated else self.text

    @property
    def kept_share(self) -> float:
        """Mean share of the prompt's tokens that entered a layer; 1.0 where nothing was pruned."""
        if not self.layer_tokens or not self.prompt_tokens:
            return 1.0
        return sum(self.layer_tokens) / len(self.layer_tokens) / self.prompt_tokens

    @property
    def tpot_s(self) -> float:
        """Seconds per token after the first; 0 where there are no others."""
        return self.decode_s / (self.new_tokens - 1) if self.new_tokens > 1 else 0.0

    @property
    def forward_passes(self) -> int:
        """Forward passes of the answer, the one that ends the prompt included: without drafts one for each token."""
        return len(self.drafts) or self.new_tokens

    @property
    def dropped_tokens(self) -> int:
        """Number of prompt tokens that did not enter the last layer."""
        return self.prompt_tokens - self.layer_tokens[-1] if self.layer_tokens else 0


@dataclass(frozen=True)
class PlanRequest:
    """What ``generate`` is given: one prompt of a batch."""

    prompt: Prompt
    """The chat to answer."""
    sampling: Sampling
    """How to decode."""
    on_line: LineCallback | None = None
    """Called with each line of the answer as soon as it is complete."""


def cut_note(generation: Generation) -> str | None:
    """Say that an answer was cut and what of it counts, for the planner to read; ``None`` for an answer that was not cut."""
    if not generation.truncated:
        return None
    left = "its last line was left out" if generation.complete_text.strip() else "before its first line was complete"
    tokens = "1 token" if generation.new_tokens == 1 else f"{generation.new_tokens} tokens"
    return f"the answer was cut after {tokens}, {left}: write a shorter plan and nothing else"


@runtime_checkable
class PlannerBackend(Protocol):
    """Anything that answers a prompt."""

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Answer a prompt.

        Parameters
        ----------
        prompt
            The chat to answer.
        sampling
            How to decode.
        on_line
            Called with each line of the answer as soon as it is complete.

        Returns
        -------
        Generation
            The answer and what it cost.

        Raises
        ------
        PromptTooLongError
            Where the prompt and ``max_new_tokens`` exceed the backend's context.
        """
        ...


@runtime_checkable
class FormattedBackend(PlannerBackend, Protocol):
    """A backend that can answer in a format. In one other than ``free`` it needs ``Sampling.grammar``."""

    @property
    def answer_format(self) -> AnswerFormat:
        """How it answers."""
        ...


def format_of(backend: object) -> AnswerFormat:
    """Return how a backend answers; by default in free text."""
    found: AnswerFormat = getattr(backend, "answer_format", "free")  # a wrapper may pass it on by __getattr__
    return found


@runtime_checkable
class StatefulBackend(PlannerBackend, Protocol):
    """A backend that keeps something of earlier prompts, such as their keys and values, so that the next answer takes less time.

    Answers do not depend on what is kept. Times do: whoever measures them has to know what came before.
    """

    def reset(self) -> None:
        """Forget what was kept of earlier prompts."""
        ...


@runtime_checkable
class BatchBackend(PlannerBackend, Protocol):
    """A backend that answers the prompts of several agents together."""

    def generate_batch(self, requests: Sequence[PlanRequest]) -> list[Generation]:
        """Answer several prompts. Each gets the answer that it gets alone, up to rounding.

        Times are those that its agent waits: all prompts of a batch count from its beginning.

        Parameters
        ----------
        requests
            The prompts, which may have different lengths and settings.

        Returns
        -------
        list of Generation
            The answers, in the order of the prompts.

        Raises
        ------
        PromptTooLongError
            Where one of the prompts does not fit; ask one by one to learn which.
        """
        ...


@runtime_checkable
class ObservingBackend(PlannerBackend, Protocol):
    """A backend that can take in the history while the agent acts, so that less is left to do when a plan is asked for."""

    def observe(self, prompt: Prompt) -> None:
        """Take in the prompt as it is so far; the next one goes on with it. Plans are the same without. Return when it is done.

        Parameters
        ----------
        prompt
            The history up to now. It is not answered.
        """
        ...
