"""Sessions as a backend: the keys and values of a prompt stay for the next one, so that a replan costs what is new."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from erecap.answering.local import Asked, Cost, LocalBackend
from erecap.calibration.chooser import ChosenSchedule
from erecap.engine.selector_protocol import Selector
from erecap.models.answers import TimedAnswer
from erecap.models.device import synchronize
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.sessions import ReplanSession
from erecap.sessions.drafts import CopyDraft, Drafter, FirstDraft, SuffixDraft
from erecap.sessions.session import MOST_DRAFTED
from erecap.sessions.store import SessionStore
from planner.backend import PlanRequest, Sampling
from planner.prompt import Prompt, before_observation

DRAFTS: dict[str, Callable[[TokenizedPrompt, frozenset[int]], Drafter]] = {
    "plan": lambda prompt, line_breaks: CopyDraft(np.array(prompt.draft, np.int64), line_breaks),
    "context": lambda prompt, line_breaks: SuffixDraft(prompt.input_ids),
}
"""Sources of drafts by name, the most reliable first. Each takes a prompt and the tokens that end a line."""


class SessionBackend(LocalBackend):
    """A backend that keeps a session for each agent that it plans for (``erecap.sessions``).

    Parameters
    ----------
    loaded
        The model and its tokenizer.
    schedule
        Where tokens are dropped and how many, by a rule that sessions take; the empty schedule gives a prefix cache.
    selector
        Scores the tokens at the stages.
    trim
        Shortens the text of a prompt before it is tokenized.
    budget_bytes
        Most bytes of keys and values of all sessions together.
    drafts
        Sources of drafts, names of ``DRAFTS``. They save time and change no answer. A sampled answer is not drafted.

    Raises
    ------
    ValueError
        For a schedule or a selector that a session cannot follow, and for a budget that is not positive.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        schedule: PruneSchedule,
        selector: Selector | None = None,
        trim: Callable[[Prompt], Prompt] | None = None,
        budget_bytes: int = 2**31,
        drafts: Sequence[str] = tuple(DRAFTS),
    ) -> None:
        super().__init__(loaded, trim)
        self.schedule, self.selector, self._drafts = schedule, selector, tuple(drafts)
        make = partial(ReplanSession, loaded.model, schedule, selector)
        make()  # refuses a schedule or selector that sessions cannot follow now, not at the first prompt
        self.sessions = SessionStore(make, budget_bytes, by_turns=bool(schedule.stages))
        self._held_before = 0  # tokens of the prompt under way that were held when it came: what is taken in first is not reused

    def reset(self) -> None:
        """Forget all sessions."""
        self.sessions.reset()

    def submit(self, request: PlanRequest) -> Asked:
        """Tokenize a prompt. A pruned session first takes it in as it was before its latest observation.

        What runs before an observation sees the one before it in full, whether the history was taken in while the agent acted or
        not. Without stages it makes no difference, and where the observation follows the plan at once there was nothing to take in.
        """
        asked = super().submit(request)
        self._held_before = self.sessions.held_of(asked.tokenized)
        earlier = before_observation(request.prompt) if self.schedule.stages else None
        if earlier is not None and earlier.segments[-1].role != "assistant":
            self.observe(earlier)
        return asked

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> Cost:
        passes = list[tuple[int, int]]()
        drafter = None if sampling.temperature or not self._drafts else self._drafter(tokenized)
        draft = [] if drafter is None else drafter.propose((), min(MOST_DRAFTED, sampling.max_new_tokens - 1))
        session, made = self.sessions.extend(tokenized, draft)
        options = self.decode_options(sampling, self.ban(sampling))
        for token in session.plan(options, drafter, lambda verified: passes.append((verified.drafted, verified.accepted))):
            answer.put(token)
        chosen = ChosenSchedule(self.schedule, self.selector)
        reused = min(made.reused_tokens, self._held_before)
        return Cost(made.layer_tokens, self._survivors(made.layer_tokens), made.kv_bytes, chosen, reused, tuple(passes))

    def observe(self, prompt: Prompt) -> None:
        """Take in the history as it is so far (``planner.ObservingBackend``)."""
        so_far = self._encode(self._trimmed(prompt)).without_header()
        if self.sessions.held_of(so_far) < len(so_far):
            with self.out_of_memory(len(so_far)):
                self.sessions.extend(so_far)
            for device in self.loaded.devices:  # who times this call must not leave its work to the next one
                synchronize(device)

    def _drafter(self, tokenized: TokenizedPrompt) -> Drafter:
        return FirstDraft(tuple(DRAFTS[name](tokenized, self._line_breaks) for name in self._drafts), self.loaded.eos_ids)

    def _encode(self, prompt: Prompt) -> TokenizedPrompt:
        """Tokenize the prompt and its draft. A draft ends as an answer does."""
        tokenized = super()._encode(prompt)
        if not prompt.draft or "plan" not in self._drafts:
            return tokenized
        return replace(tokenized, draft=(*self.chat.data_tokens(prompt.draft).tolist(), *self._end))

    @cached_property
    def _line_breaks(self) -> frozenset[int]:
        return frozenset(token for token, text in enumerate(self.chat.token_texts()) if text.endswith("\n"))

    @cached_property
    def _end(self) -> tuple[int, ...]:
        """The token that ends an answer; none where the model has several."""
        own = self.chat.tokenizer.eos_token_id
        return (own,) if own in self.loaded.eos_ids else ()

    def _survivors(self, layer_tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Read the tokens behind each stage from those that the next layer holds."""
        return tuple(layer_tokens[layer + 1] for layer in self.schedule.layers if layer + 1 < len(layer_tokens))
