"""What the backends with a model in this process have in common: an answer is tokenized, timed and recorded."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from erecap.answering.formats import LineChoices, LinesBan, expression_of, grammar_for, lines_to_choose
from erecap.calibration.chooser import UNPRUNED, ChosenSchedule
from erecap.engine.decode import DecodeOptions, TokenBan
from erecap.models.answers import TimedAnswer
from erecap.models.architecture import ContextLengthError, check_length
from erecap.models.beginnings import AvoidedBeginnings, Vocabulary
from erecap.models.device import explain_out_of_memory, peak_memory_bytes, reset_peak_memory
from erecap.models.grammar_masks import GrammarMask, MaskVocabulary
from erecap.models.loading import LoadedModel
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from planner.backend import Generation, LineCallback, PlanRequest, PromptTooLongError, Sampling
from planner.grammar import AnswerFormat
from planner.prompt import Prompt


@dataclass(frozen=True)
class Cost:
    """Token counts and cache size of one answered prompt.

    Attributes
    ----------
    layer_tokens
        Tokens that entered each layer.
    stage_tokens
        Survivors of each stage.
    kv_bytes
        Bytes of keys and values after the prefill.
    chosen
        The pruning that was chosen for the prompt.
    reused_tokens
        Prompt tokens whose keys and values were there already.
    drafts
        Tokens drafted and accepted in each forward pass.
    choices
        Lines that were scored, where the answer is one that was chosen.
    choice_score
        Score of the one that was chosen (``Generation.choice_score``).
    """

    layer_tokens: tuple[int, ...]
    stage_tokens: tuple[int, ...]
    kv_bytes: int
    chosen: ChosenSchedule = UNPRUNED
    reused_tokens: int = 0
    drafts: tuple[tuple[int, int], ...] = ()
    choices: int = 0
    choice_score: float | None = None


@dataclass(frozen=True)
class Asked:
    """A prompt under way.

    Attributes
    ----------
    request
        What was asked for.
    tokenized
        The prompt as the model reads it.
    answer
        Gets the tokens of the answer.
    tokenize_s
        Seconds of tokenizing.
    """

    request: PlanRequest
    tokenized: TokenizedPrompt
    answer: TimedAnswer
    tokenize_s: float


def put_step(asked: Sequence["Asked"], tokens: Sequence[int | None]) -> None:
    """Hand each prompt's next token to its answer; ``None`` stands for an answer that has ended."""
    for one, token in zip(asked, tokens, strict=True):
        if token is not None:
            one.answer.put(token)


def encode_prompt(chat: ChatTokenizer, prompt: Prompt) -> TokenizedPrompt:
    """Tokenize a prompt: one message per segment, then the header of the answer."""
    return chat.encode((segment.role, segment.text, segment.protected) for segment in prompt.segments)


class LocalBackend(ABC):
    """A backend with a model in this process. It tokenizes, times and records an answer; subclasses implement ``_run``.

    TTFT is the time from the call of ``generate`` until the host knows the first token. It includes tokenization, whose time is
    also recorded separately. Backends share no cache of tokens, since that would favour the backend that runs second.

    Parameters
    ----------
    loaded
        The model and its tokenizer.
    trim
        Shortens the text of a prompt before it is tokenized.
    """

    def __init__(self, loaded: LoadedModel, trim: Callable[[Prompt], Prompt] | None = None) -> None:
        self.loaded = loaded
        self.chat = ChatTokenizer(loaded.tokenizer)
        self._trim = trim
        self._format: AnswerFormat = "free"

    @property
    def answer_format(self) -> AnswerFormat:
        """How the backend answers (``planner.FormattedBackend``)."""
        return self._format

    def use_format(self, answer_format: AnswerFormat) -> None:
        """Answer in a format from now on.

        Raises
        ------
        ValueError
            For a format that the backend does not have, one whose extra is not installed, and a model that cannot end an answer.
        """
        self._format = answer_format
        if answer_format == "lines":
            _ = self._masks  # an error now, not at the first prompt
        elif answer_format == "choice":
            _ = self._end

    def turn_off_reasoning(self) -> None:
        """Ask the chat template to let the model answer at once. Raises ``ValueError`` where it has no such switch."""
        self.chat = ChatTokenizer(self.loaded.tokenizer, reasoning=False)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Answer a prompt.

        ``prompt_tokens`` counts the prompt before trimming, so trimmed tokens count as dropped. ``new_tokens`` includes the end
        token; the text does not.

        Parameters
        ----------
        prompt
            The prompt.
        sampling
            Settings of the decode.
        on_line
            Called with each complete line of the answer, without its line break. Blank lines are skipped.

        Raises
        ------
        PromptTooLongError
            Where prompt and answer exceed the model's positions.
        OutOfMemoryError
            Where they exceed the GPU's memory.
        """
        reset_peak_memory(*self.loaded.devices)
        asked = self.submit(PlanRequest(prompt, sampling, on_line))
        with self.out_of_memory(len(asked.tokenized)):
            cost = self.answer(asked)
        return self.generation(asked, cost)

    def answer(self, asked: "Asked") -> Cost:
        """Answer one prompt: in tokens, or with a line that is chosen."""
        sampling = asked.request.sampling
        grammar = grammar_for(sampling, self._format)
        if grammar is None or self._format != "choice":
            return self._run(asked.tokenized, sampling, asked.answer)
        lines = LineChoices.of(lines_to_choose(grammar, sampling.avoid), self.chat.data_tokens, self._end)
        sums, cost = self._score(asked.tokenized, lines.answers)
        chosen, score = lines.choose(sums, self.decode_options(sampling, None))
        for token in lines.ended[chosen]:
            asked.answer.put(token)
        return replace(cost, choices=len(lines.ended), choice_score=score)

    def submit(self, request: PlanRequest) -> "Asked":
        """Start the clock of an answer, tokenize its prompt, and refuse one that is too long."""
        answer = TimedAnswer(self.chat.decode, self.loaded.eos_ids, request.on_line)
        tokenized = self._encode(self._trimmed(request.prompt))
        tokenize_s = answer.elapsed()
        try:
            check_length(self.loaded.model.config, len(tokenized), request.sampling.max_new_tokens)
        except ContextLengthError as error:
            raise PromptTooLongError(str(error)) from error
        return Asked(request, tokenized, answer, tokenize_s)

    def generation(self, asked: "Asked", cost: Cost) -> Generation:
        """Close an answer and sum it up."""
        answer = asked.answer
        return Generation(
            text=answer.text(),
            prompt_tokens=len(asked.tokenized if self._trim is None else self._encode(asked.request.prompt)),
            new_tokens=len(answer.tokens),
            stage_tokens=cost.stage_tokens,
            layer_tokens=cost.layer_tokens,
            reused_tokens=cost.reused_tokens,
            drafts=cost.drafts,
            ttft_s=answer.ttft_s,
            first_skill_s=answer.first_skill_s,
            decode_s=answer.last_s - answer.ttft_s,
            total_s=answer.elapsed(),
            tokenize_s=asked.tokenize_s,
            kv_bytes=cost.kv_bytes,
            peak_memory_bytes=peak_memory_bytes(*self.loaded.devices),
            truncated=self.loaded.eos_ids.isdisjoint(answer.tokens),
            schedule=str(cost.chosen.schedule),
            budget_s=cost.chosen.budget_s,
            predicted_s=cost.chosen.predicted_s,
            budget_met=cost.chosen.budget_met,
            format="free" if grammar_for(asked.request.sampling, self._format) is None else self._format,
            choices=cost.choices,
            choice_score=cost.choice_score,
            token_ids=tuple(answer.tokens),
        )

    def _trimmed(self, prompt: Prompt) -> Prompt:
        return prompt if self._trim is None else self._trim(prompt)

    def _encode(self, prompt: Prompt) -> TokenizedPrompt:
        return encode_prompt(self.chat, prompt)

    def ban(self, sampling: Sampling) -> TokenBan | None:
        """Make the ban of what the answer must not have: beginnings, and all that is in no line. ``None`` where there is none."""
        avoided = AvoidedBeginnings(sampling.avoid, self.chat.decode, self._vocabulary) if sampling.avoid else None
        mask = self.mask(sampling)
        return avoided if mask is None else LinesBan(mask, avoided)

    def mask(self, sampling: Sampling) -> GrammarMask | None:
        """Make the mask of an answer in lines; ``None`` for another format."""
        grammar = grammar_for(sampling, self._format) if self._format == "lines" else None
        return None if grammar is None else self._masks.mask(expression_of(grammar))

    @cached_property
    def _masks(self) -> MaskVocabulary:
        return MaskVocabulary(self.loaded.tokenizer, self.loaded.model.config.vocab_size, self.loaded.eos_ids)

    @cached_property
    def _end(self) -> int:
        """The token that ends an answer: the tokenizer's own where the model has several."""
        own = self.chat.tokenizer.eos_token_id
        if not self.loaded.eos_ids:
            raise ValueError("the model has no end token, so an answer has no likelihood of its own: use format=free")
        return int(own) if own in self.loaded.eos_ids else min(self.loaded.eos_ids)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.chat.token_texts()[: self.loaded.model.config.vocab_size])

    def answer_loss(self, prompt: TokenizedPrompt, answer: Sequence[int]) -> float:
        """Compute the cross entropy of an answer to a prompt, mean over its tokens, in nats.

        A backend that keeps keys and values takes the prompt in as it would to answer it.

        Parameters
        ----------
        prompt
            The prompt.
        answer
            Token ids of the answer, its end token included; at least one.

        Raises
        ------
        ValueError
            For a backend that scores no answers.
        """
        sums, _ = self._score(prompt, [answer])
        return -float(sums[0]) / len(answer)

    @abstractmethod
    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> Cost:
        """Prefill and decode; hand each token to ``answer``."""

    @abstractmethod
    def _score(self, tokenized: TokenizedPrompt, answers: Sequence[Sequence[int]]) -> tuple[Tensor, Cost]:
        """Prefill, and compute the log-likelihood of each answer, float32 ``(answers,)`` on the host."""

    def out_of_memory(self, tokens: int) -> AbstractContextManager[None]:
        """Turn an out-of-memory error in the context into one that names the ``tokens`` of the prompt, and remedies."""
        return explain_out_of_memory(self.loaded.device, f"a prompt of {tokens} tokens")

    def decode_options(self, sampling: Sampling, ban: TokenBan | tuple[TokenBan | None, ...] | None) -> DecodeOptions:
        """Translate ``sampling``; ``ban`` is that of its beginnings to avoid."""
        return DecodeOptions(
            sampling.max_new_tokens, sampling.temperature, sampling.seed, self.loaded.eos_ids, sampling.ignore_eos, ban
        )
