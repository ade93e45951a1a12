"""The engine as planner backends: ``baseline``, ``erecap`` and ``hf-generate``.

Only this module and ``backend_options`` import the package ``planner``. A new backend is a class with ``generate`` and a line in
``BACKENDS``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from erecap.backend_options import (
    MODEL_OPTIONS,
    PRUNE_OPTIONS,
    ModelOptions,
    PruneOptions,
    check_known,
    read_model_options,
    read_prune_options,
)
from erecap.calibration.chooser import UNPRUNED, BudgetChooser, ChosenSchedule
from erecap.calibration.cost_model import CostModel, Setting
from erecap.calibration.thresholds import read_calibration
from erecap.distributed.tensor_parallel import ranks_of
from erecap.engine.decode import DecodeOptions, TokenBan, banned, decode
from erecap.engine.prefill import prefill
from erecap.engine.selector_protocol import Selector
from erecap.models.answers import TimedAnswer
from erecap.models.architecture import ContextLengthError, check_config, check_length
from erecap.models.beginnings import AvoidedBeginnings, Vocabulary
from erecap.models.device import explain_out_of_memory, peak_memory_bytes, reset_peak_memory
from erecap.models.kv_cache import cache_bytes
from erecap.models.loading import LoadedModel, bundled_pruner_dir, load_model, load_pruner, read_config
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.selectors import USE_PRUNER, SelectorContext, make_selector
from planner.backend import Generation, LineCallback, PlannerBackend, PlanRequest, PromptTooLongError, Sampling
from planner.prompt import Prompt
from planner.spec import BackendSpec
from planner.trimming import TRIMS

BATCH_BYTES = {"cpu": 2**30, "cuda": 2**33}
"""About the most bytes of keys, values and activations of the prompts that are prefilled together, by the kind of device."""


@dataclass(frozen=True)
class _Cost:
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
    """

    layer_tokens: tuple[int, ...]
    stage_tokens: tuple[int, ...]
    kv_bytes: int
    chosen: ChosenSchedule = UNPRUNED


@dataclass(frozen=True)
class _Asked:
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


def encode_prompt(chat: ChatTokenizer, prompt: Prompt) -> TokenizedPrompt:
    """Tokenize a prompt: one message per segment, then the header of the answer."""
    return chat.encode((segment.role, segment.text, segment.protected) for segment in prompt.segments)


class _LocalBackend(ABC):
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
        asked = self._submit(PlanRequest(prompt, sampling, on_line))
        with self._out_of_memory(len(asked.tokenized)):
            cost = self._run(asked.tokenized, sampling, asked.answer)
        return self._generation(asked, cost)

    def _submit(self, request: PlanRequest) -> "_Asked":
        """Start the clock of an answer, tokenize its prompt, and refuse one that is too long."""
        answer = TimedAnswer(self.chat.decode, self.loaded.eos_ids, request.on_line)
        tokenized = self._encode(request.prompt if self._trim is None else self._trim(request.prompt))
        tokenize_s = answer.elapsed()
        try:
            check_length(self.loaded.model.config, len(tokenized), request.sampling.max_new_tokens)
        except ContextLengthError as error:
            raise PromptTooLongError(str(error)) from error
        return _Asked(request, tokenized, answer, tokenize_s)

    def _generation(self, asked: "_Asked", cost: _Cost) -> Generation:
        answer = asked.answer
        return Generation(
            text=answer.text(),
            prompt_tokens=len(asked.tokenized if self._trim is None else self._encode(asked.request.prompt)),
            new_tokens=len(answer.tokens),
            stage_tokens=cost.stage_tokens,
            layer_tokens=cost.layer_tokens,
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
            token_ids=tuple(answer.tokens),
        )

    def _encode(self, prompt: Prompt) -> TokenizedPrompt:
        return encode_prompt(self.chat, prompt)

    def _ban(self, sampling: Sampling) -> TokenBan | None:
        """Make the ban of the beginnings that the answer must not have; ``None`` where there are none."""
        return AvoidedBeginnings(sampling.avoid, self.chat.decode, self._vocabulary) if sampling.avoid else None

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.chat.token_texts()[: self.loaded.model.config.vocab_size])

    @abstractmethod
    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> _Cost:
        """Prefill and decode; hand each token to ``answer``."""

    def _out_of_memory(self, tokens: int) -> AbstractContextManager[None]:
        return explain_out_of_memory(self.loaded.device, f"a prompt of {tokens} tokens")


class EngineBackend(_LocalBackend):
    """The pruned engine; with the empty schedule it is the baseline.

    Parameters
    ----------
    loaded
        The model and its tokenizer.
    schedule
        Where tokens are dropped and how many.
    selector
        Scores the tokens at the stages.
    choose
        Chooses a schedule and selector for each prompt; replaces ``schedule`` and ``selector``.
    trim
        Shortens the text of a prompt before it is tokenized.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        schedule: PruneSchedule,
        selector: Selector | None = None,
        choose: Callable[[TokenizedPrompt], ChosenSchedule] | None = None,
        trim: Callable[[Prompt], Prompt] | None = None,
    ) -> None:
        super().__init__(loaded, trim)
        self.schedule, self.selector = schedule, selector
        self._choose = choose or (lambda _: ChosenSchedule(schedule, selector))

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> _Cost:
        chosen = self._choose(tokenized)
        start = prefill(self.loaded.model, tokenized, chosen.schedule, chosen.selector)
        for (token,) in decode(self.loaded.model, start, self._decode_options(sampling, self._ban(sampling))):
            if token is not None:
                answer.put(token)
        return _Cost(start.layer_tokens[0], tuple(stage.counts[0] for stage in start.stages), start.kv_bytes, chosen)

    def generate_batch(self, requests: Sequence[PlanRequest]) -> list[Generation]:
        """Answer the prompts of several agents together (``planner.BatchBackend``).

        Prompts that are decoded alike and pruned by the same schedule share a batch, up to ``BATCH_BYTES``. Peak memory is
        that of the largest batch.

        Raises
        ------
        PromptTooLongError
            Where a prompt and its answer exceed the model's positions.
        OutOfMemoryError
            Where a batch exceeds the device's memory.
        """
        reset_peak_memory(*self.loaded.devices)
        asked = [self._submit(request) for request in requests]
        chosen = [self._choose(one.tokenized) for one in asked]
        found: dict[int, Generation] = {}
        for rows in _batches(asked, chosen, self._batch_tokens()):
            with self._out_of_memory(sum(len(asked[row].tokenized) for row in rows)):
                costs = self._run_batch([asked[row] for row in rows], chosen[rows[0]])
            found |= {row: self._generation(asked[row], cost) for row, cost in zip(rows, costs, strict=True)}
        return [found[row] for row in range(len(asked))]

    def _run_batch(self, asked: Sequence[_Asked], chosen: ChosenSchedule) -> list[_Cost]:
        """Prefill and decode prompts of one batch; hand each token to the answer of its row."""
        options = self._decode_options(asked[0].request.sampling, tuple(self._ban(one.request.sampling) for one in asked))
        start = prefill(self.loaded.model, [one.tokenized for one in asked], chosen.schedule, chosen.selector)
        for tokens in decode(self.loaded.model, start, options):
            for one, token in zip(asked, tokens, strict=True):
                if token is not None:
                    one.answer.put(token)
        padded = len(asked) * sum(map(max, zip(*start.layer_tokens, strict=True)))
        return [
            _Cost(tokens, tuple(stage.counts[row] for stage in start.stages), start.kv_bytes * sum(tokens) // padded, chosen)
            for row, tokens in enumerate(start.layer_tokens)
        ]

    def _batch_tokens(self) -> int:
        """Compute the most tokens of a batch, padding included."""
        config: Any = self.loaded.model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kv = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
        per_token: int = (kv + 4 * config.intermediate_size) * self.loaded.model.dtype.itemsize
        return BATCH_BYTES.get(self.loaded.device.type, BATCH_BYTES["cpu"]) // per_token

    def _decode_options(self, sampling: Sampling, ban: TokenBan | tuple[TokenBan | None, ...] | None) -> DecodeOptions:
        return DecodeOptions(
            sampling.max_new_tokens, sampling.temperature, sampling.seed, self.loaded.eos_ids, sampling.ignore_eos, ban
        )


def _batches(asked: Sequence[_Asked], chosen: Sequence[ChosenSchedule], most_tokens: int) -> list[list[int]]:
    """Divide prompts into batches, the shortest first, so that little is padded."""
    alike: dict[Hashable, list[int]] = {}
    for row in sorted(range(len(asked)), key=lambda row: len(asked[row].tokenized)):
        key = (replace(asked[row].request.sampling, avoid=()), str(chosen[row].schedule), id(chosen[row].selector))
        alike.setdefault(key, []).append(row)
    return [batch for rows in alike.values() for batch in _fitting(rows, [len(asked[row].tokenized) for row in rows], most_tokens)]


def _fitting(rows: Sequence[int], lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Cut rows of rising length where a batch would exceed ``most_tokens``. A longer prompt is alone."""
    batch: list[int] = []
    for row, length in zip(rows, lengths, strict=True):
        if batch and (len(batch) + 1) * length > most_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class HFGenerateBackend(_LocalBackend):
    """Stock transformers ``generate``, for comparison. It decodes the same greedy tokens as the baseline."""

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: TimedAnswer) -> _Cost:
        ids = torch.from_numpy(tokenized.input_ids)[None].to(self.loaded.device)
        gpus = [device for device in self.loaded.devices if device.type == "cuda"]
        with torch.random.fork_rng(gpus):  # generate draws from the global generator
            torch.manual_seed(sampling.seed)
            output: Any = self.loaded.model.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._config(sampling),
                streamer=_TokenStreamer(answer),
                logits_processor=self._processors(sampling, len(tokenized)),
            )
        layers = self.loaded.model.config.num_hidden_layers
        kv_bytes = self._prompt_kv_bytes(output, len(tokenized)) * ranks_of(self.loaded.model)
        return _Cost((len(tokenized),) * layers, (), kv_bytes)

    def _config(self, sampling: Sampling) -> GenerationConfig:
        """Translate ``sampling``, with the model's own generation defaults (repetition penalty, top_k, top_p) set to neutral.

        ``generate`` takes every missing value from the model's defaults, the end token included. So for ``ignore_eos`` the end
        token is set to an id that no token has: the vocabulary's size.
        """
        eos = [self.loaded.model.config.vocab_size] if sampling.ignore_eos else sorted(self.loaded.eos_ids)
        draws = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if sampling.temperature else {}
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_new_tokens,
            do_sample=bool(sampling.temperature),
            repetition_penalty=1.0,
            eos_token_id=eos or [self.loaded.model.config.vocab_size],
            pad_token_id=0,
            return_dict_in_generate=True,
            **draws,
        )

    def _processors(self, sampling: Sampling, prompt_tokens: int) -> LogitsProcessorList:
        ban = self._ban(sampling)
        return LogitsProcessorList([] if ban is None else [_BanProcessor(ban, prompt_tokens)])

    @staticmethod
    def _prompt_kv_bytes(output: Any, prompt_tokens: int) -> int:
        """Count the bytes of the cache after prefill: all layers have one length, so this is the prompt's share of the whole."""
        held = output["cache"] if "cache" in output else output["past_key_values"]  # the name up to transformers 5.24
        return cache_bytes(held) * prompt_tokens // int(held.get_seq_length())


class _BanProcessor(LogitsProcessor):
    """A ban of tokens in stock ``generate``; answers begin after ``prompt_tokens`` tokens."""

    def __init__(self, ban: TokenBan, prompt_tokens: int) -> None:
        self._ban, self._prompt_tokens = ban, prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mask ``scores``, float ``(batch, vocab)``, by the tokens so far, int64 ``(batch, n)``."""
        return banned(scores, [self._ban(row) for row in input_ids[:, self._prompt_tokens :].tolist()])


class _TokenStreamer(BaseStreamer):
    """A streamer that passes ``generate``'s tokens to an answer. The first call holds the prompt and is skipped."""

    def __init__(self, answer: TimedAnswer) -> None:
        self._answer, self._prompt_seen = answer, False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self._answer.put(int(value))
        self._prompt_seen = True

    def end(self) -> None:
        """Do nothing: the backend closes the answer."""


@dataclass(frozen=True)
class EngineBackendMaker:
    """A factory of backends, and the options that it takes.

    Attributes
    ----------
    make
        Makes the backend from the options of its spec, which have been checked to be known.
    options
        Names of the options it takes, besides those of ``planner.trimming``.
    """

    make: Callable[[Mapping[str, str]], _LocalBackend]
    options: tuple[str, ...] = MODEL_OPTIONS


def make_backend(spec: BackendSpec) -> PlannerBackend:
    """Make the backend that a spec describes.

    Every backend takes the options of ``planner.trimming``: ``last=K`` or ``mask=K``.

    Parameters
    ----------
    spec
        Name and options, such as ``erecap?keep=0.7``.

    Raises
    ------
    ValueError
        For an unknown name or option, or a value that the backend cannot use.
    """
    maker = BACKENDS.get(spec.name)
    if maker is None:
        raise ValueError(f"backend {spec.name!r} is not known here: the engine's backends are {', '.join(BACKENDS)}")
    check_known(spec, (*maker.options, *TRIMS))
    return maker.make(spec.options)


def _load(options: ModelOptions) -> LoadedModel:
    return load_model(options.model, options.dtype, placement=options.placement)


def _load_supported(options: ModelOptions) -> LoadedModel:
    """Load a model for the engine. An architecture that it cannot run is refused before the weights are read."""
    check_config(read_config(options.model))
    return _load(options)


def _baseline(options: Mapping[str, str]) -> _LocalBackend:
    model = read_model_options(options)
    return EngineBackend(_load_supported(model), PruneSchedule.none(), trim=model.trim)


def _hf_generate(options: Mapping[str, str]) -> _LocalBackend:
    model = read_model_options(options)
    return HFGenerateBackend(_load(model), model.trim)


def _erecap(options: Mapping[str, str]) -> _LocalBackend:
    model, prune = read_model_options(options), read_prune_options(options)
    loaded = _load_supported(model)
    context = SelectorContext(PruneSchedule.none(), _pruner(model, prune, loaded), prune.seed, loaded.model, loaded.eos_ids)
    if prune.budget_s is not None:
        choose = _chooser(prune, prune.budget_s, loaded, context)
        return EngineBackend(loaded, context.schedule, make_selector(prune.selector, context), choose, model.trim)
    schedule = PruneSchedule.of_stages(prune.stages, loaded.model.config.num_hidden_layers, prune.keep)
    selector = make_selector(prune.selector, replace(context, schedule=schedule))
    return EngineBackend(loaded, _by_rule(prune, schedule), selector, trim=model.trim)


def _pruner(model: ModelOptions, options: PruneOptions, loaded: LoadedModel) -> TokenPruner | None:
    """Load the pruner of a selector that scores with one; the others need none."""
    if options.selector not in USE_PRUNER:
        return None
    if model.model is not None and options.pruner is None:
        raise ValueError(
            f"the bundled pruner belongs to the bundled planner, not to {model.model!r}: name the model's own with "
            "pruner=DIR (made by `erecap train-pruner`), or use selector=random or selector=recency"
        )
    return load_pruner(options.pruner, loaded)


def _chooser(options: PruneOptions, budget_s: float, loaded: LoadedModel, context: SelectorContext) -> BudgetChooser:
    """Make a chooser over the stages that the pruner was trained for; selectors without a pruner can score after every layer."""
    cost = CostModel.load(options.cost_file, Setting.of(loaded, options.selector))
    stages = None if context.pruner is None else context.pruner.stages
    return BudgetChooser(
        cost, budget_s, stages, lambda schedule: make_selector(options.selector, replace(context, schedule=schedule))
    )


def _by_rule(options: PruneOptions, schedule: PruneSchedule) -> PruneSchedule:
    """Apply the rule of the options. ``threshold`` takes the thresholds that were fitted to the pruner."""
    if options.rule != "threshold":
        return schedule.by_rule(options.rule)
    return schedule.by_rule(options.rule, read_calibration(options.pruner or bundled_pruner_dir()).taus(schedule))


BACKENDS: dict[str, EngineBackendMaker] = {
    "baseline": EngineBackendMaker(_baseline),
    "erecap": EngineBackendMaker(_erecap, (*MODEL_OPTIONS, *PRUNE_OPTIONS)),
    "hf-generate": EngineBackendMaker(_hf_generate),
}
