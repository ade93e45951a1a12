"""The work of an agent: its replans one after the other, as token counts and waiting times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Replan:
    """One replan of an agent.

    Attributes
    ----------
    prompt_tokens
        Tokens of the prompt.
    new_tokens
        Those that a session runs: what came since the last replan. Of an episode's first replan the whole prompt.
    protected_tokens
        Tokens of the prompt that all layers hold, the new ones included: system text, task, current plan, latest observation.
    answer_tokens
        Tokens of the answer, at least 1.
    passes
        Forward passes of the answer, the one that ends the prompt included; ``answer_tokens`` without drafts.
    drafted_tokens
        Tokens of the drafts that these passes verify, rejected ones included.
    acting_s
        Seconds from the answer until the agent asks for the next plan.
    layer_tokens
        Tokens that each layer holds of the prompt, where they were recorded; else empty.
    """

    prompt_tokens: int
    new_tokens: int
    protected_tokens: int
    answer_tokens: int
    passes: int
    drafted_tokens: int
    acting_s: float
    layer_tokens: tuple[int, ...] = ()

    @property
    def tokens_a_pass(self) -> float:
        """Mean tokens that a forward pass of the answer runs: the last one written, and those drafted behind it."""
        return 1 + self.drafted_tokens / self.passes


Episode = Sequence[Replan]
"""The replans of one agent, from an empty session on."""


@dataclass(frozen=True)
class SteadyWork:
    """An agent whose replans are all alike, for capacity at one length of context.

    Attributes
    ----------
    context
        Tokens of the prompt.
    new
        New tokens of each replan.
    protected
        Tokens of the prompt that all layers hold; ``new`` of them are new.
    answer
        Tokens of each answer.
    passes
        Forward passes of each answer.
    every_s
        Seconds between an answer and the next request.

    Raises
    ------
    ValueError
        For numbers that fit no agent.
    """

    context: int
    new: int
    protected: int
    answer: int
    passes: int
    every_s: float

    def __post_init__(self) -> None:
        counts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "every_s"}
        bad = [f"{name}={count}" for name, count in counts.items() if count < 1]
        if bad:
            raise ValueError(f"{', '.join(bad)} must be at least 1: give numbers of tokens and of forward passes")
        if not self.new <= self.protected <= self.context:
            raise ValueError(
                f"new={self.new}, protected={self.protected}, context={self.context} must not fall: new tokens are protected, and "
                "protected ones are part of the context"
            )
        if self.passes > self.answer:
            raise ValueError(
                f"passes={self.passes} exceeds answer={self.answer}: each forward pass writes a token at least, so give as many "
                "passes as tokens where nothing is drafted"
            )
        if not (math.isfinite(self.every_s) and self.every_s >= 0):
            raise ValueError(f"every={self.every_s} must be a finite number of seconds from 0 on")

    def episode(self) -> list[Replan]:
        """Make the episode of which the last replan is the steady one.

        Each prompt is longer than the one before by its answer and ``new`` tokens. The first one is protected as a whole, or
        nearly: it has less than one turn more than ``protected`` tokens. All drafted tokens are accepted.
        """
        turn = self.new + self.answer
        lengths = [self.context - turn * number for number in range((self.context - self.protected) // turn + 1)]
        return [self._replan(tokens, self.new if tokens > lengths[-1] else tokens) for tokens in reversed(lengths)]

    def _replan(self, tokens: int, new: int) -> Replan:
        protected = max(self.protected, new)
        return Replan(tokens, new, protected, self.answer, self.passes, self.answer - self.passes, self.every_s)
