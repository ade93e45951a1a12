"""A session: the pruned cache of one agent, extended while its prompt grows, so that a replan costs only what is new.

What is held. Each layer holds the keys and values of the tokens that reached it, at their original positions. Each token has a
message (*segment*), a flag that tells whether it is protected now, and a verdict.

Verdict. The number of stages that the token survives by the schedule's rule, as if nothing but the schedule's head were protected.
``threshold`` judges each token by its score. ``chunk_top_k`` keeps, of the tokens of a message that survived the stages before, the
share ``keep``. So a verdict never changes because of what comes later. The rule ``top_k`` is refused, for its verdicts would.

Protection. The head and the tokens that the prompt protects go through all layers, whatever their verdict; the stages score them on
the way. An unprotected token is dropped at the first stage that its verdict names, as in a prefill. ``compact`` drops what is
protected no longer: the keys and values behind the first stage that the token does not survive. What ran before saw these keys;
what runs later does not.

Tail. As in a prefill, no stage drops the last ``tail_min`` tokens of a prompt. Unprotected ones that are held for this reason alone
are run again at the next turn, because what followed them saw them. Prompts end in protected tokens, so this is rare.

A new prompt. ``extend`` takes the whole prompt and reuses the tokens that it has in common with the last one, up to

- its last token, which gives the logits,
- the first token that it protects and that a layer lacks,
- the first token held for the tail alone.

With ``chunk_top_k``, reuse ends at a message's end, unless it ends in the protected tokens behind the last message, the answer's
header and the answer. Their message is not complete, so they have scores and no verdict yet, and may become the beginning of any
message. The other tokens are cropped. Keys depend on earlier tokens only, so what is left is as it was before the cropped tokens
came, except that ``compact`` has dropped tokens since; of these, the unprotected ones would be dropped now anyway.

Drafts. ``extend`` can run a draft of the answer together with the prompt, and ``plan`` verifies drafts, several tokens in one
forward pass. What is rejected is cropped. A draft runs as the answer does: no stage drops it, and it has no verdict yet.

Errors. After a call that broke off, the next one takes out what it left in some layers, and goes on from the tokens held before.
Those that ``compact`` dropped stay dropped. Tokens without a verdict are run again where the broken call could drop them. A layer
whose tokens were being moved leaves nothing to go on from, so the session starts afresh.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.decode import DecodeOptions, decode_by
from erecap.engine.decode_steps import DecodeSteps
from erecap.engine.prefill import PrefillResult
from erecap.engine.selector_protocol import Selector
from erecap.models.architecture import check_length, decoder_parts
from erecap.models.device import execution_device
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.sessions.drafts import Drafter, FirstDraft, SeeingDrafter
from erecap.sessions.forward import run_new_tokens
from erecap.sessions.held import HeldTokens
from erecap.sessions.refusals import check_session
from erecap.sessions.saved import read_session, session_identity, write_session
from erecap.sessions.start import AnswerStart, followed_by
from erecap.sessions.verification import Verified, accepted, write_along

MOST_DRAFTED = 64
"""Most tokens that are drafted, where a source has them."""


@dataclass(frozen=True)
class Extension:
    """The outcome of ``ReplanSession.extend``.

    Attributes
    ----------
    prompt_tokens
        Number of tokens of the prompt.
    reused_tokens
        Those that were not run again.
    layer_tokens
        Number of tokens that each layer holds.
    kv_bytes
        Bytes of the keys and values held; of a model that is divided among ranks, of all ranks together.
    logits
        Logits of the next token, float32 ``(1, vocab)``.
    """

    prompt_tokens: int
    reused_tokens: int
    layer_tokens: tuple[int, ...]
    kv_bytes: int
    logits: Tensor


class ReplanSession:
    """The pruned cache of one agent. With the empty schedule it is a prefix cache.

    Parameters
    ----------
    model
        A stock transformers model in evaluation mode.
    schedule
        Where tokens are dropped and how many, by the rule ``chunk_top_k`` or ``threshold``. Default: the empty schedule.
    selector
        Scores the tokens at the stages; required by a schedule with stages. A token's score must depend on nothing but its hidden
        state and position.

    Raises
    ------
    UnsupportedModelError
        For a model that the engine cannot run.
    ValueError
        For a rule, a guarded tail or a selector whose verdicts would change with a longer prompt, stages without a selector, or a
        schedule that does not fit the model's depth.
    """

    def __init__(self, model: PreTrainedModel, schedule: PruneSchedule | None = None, selector: Selector | None = None) -> None:
        self._schedule, self._selector = schedule or PruneSchedule.none(), selector
        check_session(self._schedule, selector, model)
        self._model, self._parts, self._config = model, decoder_parts(model), model.config
        self._stages = {layer: index for index, layer in enumerate(self._schedule.layers)}
        self._turn = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything and free the cache."""
        self._turn += 1
        self._start: AnswerStart | None = None
        self._held = HeldTokens(self._config, self._schedule, self._parts.entry)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Ids of the tokens held, those of the answer included, int64 ``(tokens,)``."""
        return self._held.ids.copy()

    @property
    def kept(self) -> tuple[NDArray[np.int64], ...]:
        """Original positions of the tokens that each layer holds, int64 ``(held,)``, rising."""
        return self._held.cache.positions

    @property
    def kv_bytes(self) -> int:
        """Bytes of the keys and values held, without spare room; of a divided model, of all ranks together."""
        return self._held.cache.nbytes * self._parts.ranks

    @torch.inference_mode()
    def extend(self, prompt: TokenizedPrompt, draft: Sequence[int] = ()) -> Extension:
        """Take in a prompt: reuse what it has in common with the last one, drop what is protected no longer, run the rest.

        Parameters
        ----------
        prompt
            The whole prompt, with or without the header of the answer.
        draft
            First tokens of the answer, as far as they can be guessed, to be run in the same forward pass.

        Raises
        ------
        ContextLengthError
            For a prompt beyond the model's positions, or one that leaves no room for the draft.
        """
        check_length(self._config, len(prompt), len(draft))
        self._begin_turn()
        reused = self._held.reusable(prompt)
        self._held.crop(reused)
        self._held.compact(self._held.guarded(prompt.protected)[:reused])
        logits, hidden = self._run(followed_by(prompt, draft), 1 + len(draft))
        self._start = AnswerStart(prompt, tuple(draft), logits, hidden)
        held = tuple(tokens - len(draft) for tokens in self._held.cache.layer_tokens)
        kv_bytes = self.kv_bytes * sum(held) // max(1, sum(self._held.cache.layer_tokens))
        return Extension(len(prompt), reused, held, kv_bytes, logits[:1])

    @torch.inference_mode()
    def compact(self, protected: NDArray[np.bool_]) -> None:
        """Drop what is protected no longer, ahead of the ``extend`` that would do so.

        Parameters
        ----------
        protected
            Which of the first tokens held are still protected, bool ``(n,)``; the others keep their flags.

        Raises
        ------
        ValueError
            For more flags than tokens.
        """
        if len(protected) > len(self._held):
            raise ValueError(f"{len(protected)} flags for {len(self._held)} tokens held: give at most one per token")
        self._begin_turn()
        self._held.compact(self._held.guarded(protected))

    def plan(
        self, options: DecodeOptions, drafter: Drafter | None = None, on_pass: Callable[[Verified], object] | None = None
    ) -> Iterator[int]:
        """Decode an answer to the prompt of the last ``extend``.

        The tokens of the answer stay in the session, all but the last one, which is not run. They are reused where the next prompt
        goes on with them. A second call forgets the first answer.

        Parameters
        ----------
        options
            Settings of the decode.
        drafter
            Proposes tokens, which are then verified in one forward pass. The answer is the same as without.
        on_pass
            Called after each forward pass, the one of ``extend`` included, with what became of its draft.

        Returns
        -------
        iterator of int
            The tokens, the end token included. It raises ``ValueError`` where the session was used otherwise in the meantime.

        Raises
        ------
        ContextLengthError
            Where prompt and answer exceed the model's positions.
        ValueError
            Without an ``extend`` before, or after one that failed; for a draft of an answer that is sampled.
        """
        drafts = drafter is not None or (self._start is not None and bool(self._start.draft))
        if drafts and options.temperature:
            raise ValueError(
                f"temperature={options.temperature} with a draft: drafts are verified for greedy decoding, leave one out"
            )
        start, _ = self.begin_answer(options)
        if drafts:
            return self._decode_drafted(start, options, drafter or FirstDraft(()), on_pass or (lambda verified: None), self._turn)
        self._held.crop(len(start.prompt))
        return self._decode(start.logits, options, self._turn)

    def begin_answer(self, options: DecodeOptions) -> tuple[AnswerStart, HeldTokens]:
        """Begin an answer as ``plan`` does, for one that is decoded elsewhere (``plan_together``).

        Returns
        -------
        tuple of AnswerStart and HeldTokens
            Where it begins, and what is held, an earlier answer and a draft included. The answer is to be taken in there.
        """
        start = self._start
        if start is None:
            raise ValueError("the session has no prompt to answer: call extend(prompt) first")
        check_length(self._config, len(start.prompt), options.max_new_tokens)
        self._begin_turn()
        self._start = start.without_draft()
        return start, self._held

    def save(self, path: Path | str) -> None:
        """Write all that is held into one safetensors file, from which ``load`` goes on.

        What a call that broke off left behind is taken out first. An answer under way can go on; in the file it begins anew.

        Parameters
        ----------
        path
            The file. It appears when it is complete; keys and values of a GPU are copied to the host first.

        Raises
        ------
        ValueError
            For a selector without an ``identity``, a model with adapters, and one that is divided among processes.
        FileError
            Where the file cannot be written.
        """
        identity = session_identity(self._model, self._parts.ranks, self._schedule, self._selector)
        if not self._held.restore():
            self.reset()
        write_session(Path(path), identity, self._held.state() | ({} if self._start is None else self._start.state()))

    @classmethod
    def load(
        cls, path: Path | str, model: PreTrainedModel, schedule: PruneSchedule | None = None, selector: Selector | None = None
    ) -> "ReplanSession":
        """Make a session that goes on where a saved one stopped, on the model's devices.

        Parameters
        ----------
        path
            The file that ``save`` wrote.
        model, schedule, selector
            As those of the session that was saved: the same weights in the same dtype, stages, rule and scores.

        Raises
        ------
        SessionMismatchError
            For another model, dtype, schedule or selector, and for the file of another format; the message names both sides.
        FileError
            For a file that is missing, damaged, or no session.
        ValueError
            As ``ReplanSession`` and ``save`` raise it.
        """
        session = cls(model, schedule, selector)
        state = read_session(Path(path), session_identity(model, session._parts.ranks, session._schedule, selector))
        session._held.fill(state, session._parts.places)
        session._start = AnswerStart.of_state(state, execution_device(session._parts.head))
        return session

    def _begin_turn(self) -> None:
        """End the answer under way, and make the session whole after a call that broke off."""
        self._turn += 1
        self._start = None
        if not self._held.restore():
            self.reset()

    def _run(self, prompt: TokenizedPrompt, last: int = 1) -> tuple[Tensor, Tensor]:
        """Run the tokens of ``prompt`` that are not held.

        Returns
        -------
        tuple of Tensor
            The logits behind the last ones, float32 ``(last, vocab)``, and the hidden states that they are made of.
        """
        ids, judging = prompt.input_ids[len(self._held) :], self._held.judging(prompt)
        left, ran = run_new_tokens(self._parts, self._held.cache, ids, judging, self._stages, self._selector, last)
        hidden: Tensor = self._parts.norm(left)
        logits: Tensor = self._parts.head(hidden).float()
        self._held.take(prompt, judging.close(), ran)
        return logits, hidden

    @torch.inference_mode()
    def _decode_drafted(
        self, start: AnswerStart, options: DecodeOptions, drafter: Drafter, on_pass: Callable[[Verified], object], turn: int
    ) -> Iterator[int]:
        answer, draft, logits, hidden = list[int](), list(start.draft), start.logits, start.hidden
        while True:
            made = write_along(logits, draft, answer, options)
            answer += made
            on_pass(Verified(len(draft), accepted(made, draft)))
            self._held.crop(len(start.prompt) + len(answer) - 1)
            yield from made
            if (made[-1] in options.eos_ids and not options.ignore_eos) or len(answer) == options.max_new_tokens:
                return
            self._check_turn(turn)
            if hidden is not None and isinstance(drafter, SeeingDrafter):
                drafter.saw(hidden[len(made) - 1])
            draft = drafter.propose(answer, min(MOST_DRAFTED, options.max_new_tokens - len(answer) - 1))
            logits, hidden = self._run(followed_by(start.prompt, [*answer, *draft]), 1 + len(draft))

    @torch.inference_mode()
    def _decode(self, logits: Tensor, options: DecodeOptions, turn: int) -> Iterator[int]:
        answer, scores = list[int](), list[Tensor]()
        start = PrefillResult(
            self._held.cache.store, logits, (), (self._held.cache.layer_tokens,), (len(self._held),), self.kv_bytes
        )
        steps = DecodeSteps(self._parts, start, options.max_new_tokens, lambda *left: self._score(scores, *left))

        def run(tokens: Tensor, step: int) -> Tensor:
            self._check_turn(turn)
            scores.clear()
            made = steps.run(tokens, step)
            self._held.append(answer[-1], torch.stack(scores) if scores else tokens.new_zeros(0, 1).float())
            return made

        for (token,) in decode_by(run, self._parts, logits, options):
            assert token is not None, "the decode ends with its only row"
            answer.append(token)
            yield token

    def _check_turn(self, turn: int) -> None:
        if turn != self._turn:
            raise ValueError("the session was used otherwise while this answer was decoded: finish an answer, or drop it")

    def _score(self, scores: list[Tensor], layer: int, hidden: Tensor) -> None:
        """Score the token of the answer that leaves ``layer``, where a stage comes after it."""
        if layer in self._stages and self._selector is not None:
            position = torch.full((1, 1), len(self._held), device=hidden.device)
            made = self._selector.score(hidden, position, self._stages[layer], torch.ones_like(position[0]))
            scores.append(self._parts.agree(made)[0].to(self._parts.entry))


def opening_draft(drafter: Drafter, max_new_tokens: int) -> list[int]:
    """Draft the beginning of an answer of at most ``max_new_tokens``, for ``ReplanSession.extend``."""
    return drafter.propose((), min(MOST_DRAFTED, max_new_tokens - 1))
