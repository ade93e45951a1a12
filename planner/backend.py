"""What a planner backend is: a prompt goes in, generated text with its measurements comes out.

The protocol knows nothing of models, tokenizers or devices. Times are seconds of wall clock, measured by the backend with the
device synchronised; sizes are bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from planner.prompt import Prompt

LineCallback = Callable[[str], None]


class PromptTooLongError(ValueError):
    """A prompt that, with its answer, does not fit into the backend's context. It ends the episode, not the run."""


@dataclass(frozen=True)
class Sampling:
    """How to decode. ``temperature=0`` is greedy; ``ignore_eos`` decodes exactly ``max_new_tokens`` (for paired timings)."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1: ask for one token or more")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative: use 0 for greedy decoding")


@dataclass(frozen=True)
class Generation:
    """One answer of a backend and what it cost.

    ``layer_tokens[l]`` is the number of prompt tokens that entered layer ``l``; ``stage_tokens[s]`` the number that survived
    stage ``s``. Both are empty for a backend without layers (the expert, a remote model). ``schedule`` says in short where the
    engine pruned. A backend with a latency budget chooses it per prompt: ``predicted_s`` is what it expected the answer to take at
    most, and ``budget_met`` whether that was within ``budget_s``; without a budget they are ``None``. ``truncated`` where the
    answer was cut at ``max_new_tokens``, so that its last line may be incomplete.
    """

    text: str
    prompt_tokens: int = 0
    new_tokens: int = 0
    stage_tokens: tuple[int, ...] = ()
    layer_tokens: tuple[int, ...] = ()
    reused_tokens: int = 0
    ttft_s: float = 0.0
    first_skill_s: float = 0.0
    decode_s: float = 0.0
    total_s: float = 0.0
    tokenize_s: float = 0.0
    kv_bytes: int = 0
    peak_memory_bytes: int = 0
    truncated: bool = False
    schedule: str = ""
    budget_s: float | None = None
    predicted_s: float | None = None
    budget_met: bool | None = None
    token_ids: tuple[int, ...] = field(default=(), repr=False)

    @property
    def complete_text(self) -> str:
        """The text without a last line that was cut."""
        return self.text.rpartition("\n")[0] if self.truncated else self.text

    @property
    def kept_share(self) -> float:
        """Mean share of the prompt's tokens over layers (1.0 where nothing was pruned)."""
        if not self.layer_tokens or not self.prompt_tokens:
            return 1.0
        return sum(self.layer_tokens) / len(self.layer_tokens) / self.prompt_tokens

    @property
    def tpot_s(self) -> float:
        """Seconds per token after the first; 0 where there was only one."""
        return self.decode_s / (self.new_tokens - 1) if self.new_tokens > 1 else 0.0

    @property
    def dropped_tokens(self) -> int:
        """Prompt tokens that do not reach the last layer."""
        return self.prompt_tokens - self.layer_tokens[-1] if self.layer_tokens else 0


@runtime_checkable
class PlannerBackend(Protocol):
    """Anything that turns a prompt into an answer. ``on_line`` is called with each complete line as soon as it is decoded."""

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation: ...
