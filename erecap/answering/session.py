"""Sessions as a backend: the keys and values of a prompt stay for the next one, so that a replan costs what is new."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from torch import Tensor

from erecap.answering.local import Asked, Cost, LocalBackend, put_step
from erecap.calibration.chooser import ChosenSchedule
from erecap.engine.selector_protocol import Selector
from erecap.models.answers import TimedAnswer
from erecap.models.architecture import DecoderParts, decoder_parts
from erecap.models.device import reset_peak_memory, synchronize
from erecap.models.draft_head import DraftHead
from erecap.models.grammar_masks import GrammarMask
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.sessions import Extension, ReplanSession
from erecap.sessions.drafts import CopyDraft, Drafter, FirstDraft, ForcedDraft, SuffixDraft
from erecap.sessions.head_draft import HeadDraft
from erecap.sessions.scoring import score_in_session
from erecap.sessions.session import opening_draft
from erecap.sessions.store import SessionStore
from erecap.sessions.together import plan_together
from planner.backend import Generation, PlanRequest, Sampling
from planner.prompt import Prompt, before_observation

DRAFTS = ("plan", "context", "head")
"""Names of the sources of drafts."""
SURE_MATCH = 4
"""Tokens that must match in the context for it to come before the draft head."""


TOGETHER_FROM = {"cuda": 4}
"""Fewest prompts that are decoded in one batch, by the kind of device; on other kinds none are. A batch has no drafts, which save
about three of four forward passes, so fewer prompts are answered sooner one by one. An estimate, by figures in the lab notes."""


@dataclass(eq=False)
class _Waiting:
    """A prompt of several that are answered together.

    Attributes
    ----------
    asked
        The prompt.
    held_before
        Tokens of it that were held when it came.
    made
        The answer, once there is one.
    """

    asked: Asked
    held_before: int
    made: Generation = field(init=False)


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
    head
        The draft head; needed by the source ``head``.

    Raises
    ------
    ValueError
        For a schedule or a selector that a session cannot follow, for a budget that is not positive, and for the source ``head``
        without a head.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        schedule: PruneSchedule,
        selector: Selector | None = None,
        trim: Callable[[Prompt], Prompt] | None = None,
        budget_bytes: int = 2**31,
        drafts: Sequence[str] = ("plan", "context"),
        head: DraftHead | None = None,
    ) -> None:
        super().__init__(loaded, trim)
        if "head" in drafts and head is None:
            raise ValueError("drafts of the source 'head' need a draft head: give one, or leave the source out")
        self.schedule, self.selector, self._drafts, self.head = schedule, selector, tuple(drafts), head
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
        mask = self.mask(sampling)
        drafter = None if sampling.temperature or not self._drafts else self._drafter(tokenized, mask)
        draft = [] if drafter is None else opening_draft(drafter, sampling.max_new_tokens)
        session, made = self.sessions.extend(tokenized, draft)
        options = self.decode_options(sampling, self.ban(sampling))
        for token in session.plan(options, drafter, lambda verified: passes.append((verified.drafted, verified.accepted))):
            answer.put(token)
        return self._cost(made, self._held_before, passes)

    def _score(self, tokenized: TokenizedPrompt, answers: Sequence[Sequence[int]]) -> tuple[Tensor, Cost]:
        session, made = self.sessions.extend(tokenized)
        return score_in_session(self.loaded.model, session, answers), self._cost(made, self._held_before)

    def generate_batch(self, requests: Sequence[PlanRequest]) -> list[Generation]:
        """Answer the prompts of several agents together (``planner.BatchBackend``).

        Each prompt is taken into its session, one after the other. Prompts that are decoded alike are then answered in one batch,
        without drafts, as far as their sessions fit the budget together. Fewer prompts than ``TOGETHER_FROM`` says are answered one
        after the other, with drafts.

        Raises
        ------
        PromptTooLongError
            Where a prompt and its answer exceed the model's positions.
        OutOfMemoryError
            Where they exceed the device's memory.
        """
        reset_peak_memory(*self.loaded.devices)
        waiting = [_Waiting(self.submit(request), self._held_before) for request in requests]
        alike: dict[Sampling, list[_Waiting]] = {}
        for one in waiting:
            alike.setdefault(one.asked.request.sampling.shared, []).append(one)
        for group in alike.values():
            with self.out_of_memory(sum(len(one.asked.tokenized) for one in group)):
                (self._answer_together if self._many(group) else self._answer_alone)(group)
        return [one.made for one in waiting]

    def _many(self, group: "Sequence[_Waiting]") -> bool:
        least = TOGETHER_FROM.get(self.loaded.device.type)
        return self.answer_format != "choice" and least is not None and len(group) >= least

    def _answer_alone(self, group: "Sequence[_Waiting]") -> None:
        for one in group:
            self._held_before = one.held_before
            one.made = self.generation(one.asked, self.answer(one.asked))

    def _answer_together(self, group: "Sequence[_Waiting]") -> None:
        """Answer in batches of sessions that fit the budget; of two prompts for one pruned session, the second waits."""
        batch: list[tuple[_Waiting, ReplanSession, Extension]] = []
        for one in group:
            in_use = [session for _, session, _ in batch]
            if batch and (self.sessions.full_of(in_use) or self.sessions.session_of(one.asked.tokenized, in_use) in in_use):
                self._decode(batch)
                batch, in_use = [], []
            session, made = self.sessions.extend(one.asked.tokenized, in_use=in_use)
            batch.append((one, session, made))
        self._decode(batch)

    def _decode(self, batch: "Sequence[tuple[_Waiting, ReplanSession, Extension]]") -> None:
        """Decode one batch; hand each token to the answer of its row."""
        asked = [one.asked for one, _, _ in batch]
        bans = tuple(self.ban(one.request.sampling) for one in asked)
        options = self.decode_options(asked[0].request.sampling, bans)
        sessions = [session for _, session, _ in batch]
        plan_together(self.loaded.model, sessions, self.schedule, self.selector, options, partial(put_step, asked))
        for one, _, made in batch:
            one.made = self.generation(one.asked, self._cost(made, one.held_before))

    def _cost(self, made: Extension, held_before: int, passes: Sequence[tuple[int, int]] = ()) -> Cost:
        chosen = ChosenSchedule(self.schedule, self.selector)
        reused = min(made.reused_tokens, held_before)
        return Cost(made.layer_tokens, self._survivors(made.layer_tokens), made.kv_bytes, chosen, reused, tuple(passes))

    def observe(self, prompt: Prompt) -> None:
        """Take in the history as it is so far (``planner.ObservingBackend``). ``generate`` refuses one that is too long."""
        so_far = self._encode(self._trimmed(prompt)).without_header()
        fits = len(so_far) <= self.loaded.model.config.max_position_embeddings
        if fits and self.sessions.held_of(so_far) < len(so_far):
            with self.out_of_memory(len(so_far)):
                self.sessions.extend(so_far)
            for device in self.loaded.devices:  # who times this call must not leave its work to the next one
                synchronize(device)

    def _drafter(self, tokenized: TokenizedPrompt, mask: GrammarMask | None) -> Drafter:
        """Make the drafter of an answer: what a grammar forces, then the sources."""
        sources = FirstDraft(tuple(self._sources(tokenized)), self.loaded.eos_ids)
        return sources if mask is None else ForcedDraft(mask.forced, sources, self.loaded.eos_ids)

    def _sources(self, tokenized: TokenizedPrompt) -> Iterator[Drafter]:
        """Make the sources of a draft, the most reliable first: a long match in the context is surer than the head."""
        if "plan" in self._drafts:
            yield CopyDraft(np.array(tokenized.draft, np.int64), self._line_breaks)
        if "head" in self._drafts and self.head is not None:
            if "context" in self._drafts:
                yield SuffixDraft(tokenized.input_ids, SURE_MATCH)
            yield HeadDraft(self.head, self._parts)
        if "context" in self._drafts:
            yield SuffixDraft(tokenized.input_ids)

    def _encode(self, prompt: Prompt) -> TokenizedPrompt:
        """Tokenize the prompt and its draft. A draft ends as an answer does."""
        tokenized = super()._encode(prompt)
        if not prompt.draft or "plan" not in self._drafts:
            return tokenized
        return replace(tokenized, draft=(*self.chat.data_tokens(prompt.draft).tolist(), *self._draft_end))

    @cached_property
    def _parts(self) -> DecoderParts:
        return decoder_parts(self.loaded.model)

    @cached_property
    def _line_breaks(self) -> frozenset[int]:
        return self.chat.line_breaks()

    @cached_property
    def _draft_end(self) -> tuple[int, ...]:
        """The token that ends an answer; none where the model has several."""
        own = self.chat.tokenizer.eos_token_id
        return (own,) if own in self.loaded.eos_ids else ()

    def _survivors(self, layer_tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Read the tokens behind each stage from those that the next layer holds."""
        return tuple(layer_tokens[layer + 1] for layer in self.schedule.layers if layer + 1 < len(layer_tokens))
