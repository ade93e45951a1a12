"""The engine as planner backends: ``baseline``, ``erecap`` and ``hf-generate``.

The only module of ``erecap`` that knows the planner. A new backend is a class with ``generate`` and a line in ``BACKENDS``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from erecap.calibration.chooser import UNPRUNED, BudgetChooser, ChosenSchedule
from erecap.calibration.cost_model import DEFAULT_FILE, CostModel, Setting
from erecap.calibration.thresholds import read_calibration
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import cache_bytes, prefill
from erecap.models.architecture import ContextLengthError, check_config, check_length
from erecap.models.device import explain_out_of_memory, peak_memory_bytes, reset_peak_memory
from erecap.models.loading import LoadedModel, bundled_pruner_dir, load_model, load_pruner, read_config
from erecap.models.pruner import TokenPruner
from erecap.models.streaming import LineStreamer
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from erecap.schedule import PruneSchedule, parse_rule
from erecap.selectors import USE_PRUNER, Selector, SelectorContext, make_selector
from planner.backend import Generation, LineCallback, PlannerBackend, PromptTooLongError, Sampling
from planner.prompt import Prompt
from planner.spec import BackendSpec
from planner.trimming import TRIMS

Number = TypeVar("Number", int, float)

MODEL_OPTIONS = ("model", "dtype", "device")


class _Answer:
    """One answer as it comes: its tokens, its text, and when each thing happened, in seconds since the prompt was submitted."""

    def __init__(self, chat: ChatTokenizer, eos_ids: frozenset[int], on_line: LineCallback | None) -> None:
        self.submitted = perf_counter()
        self.tokens: list[int] = []
        self.ttft_s = self.first_skill_s = self.last_s = 0.0
        self._chat, self._eos_ids, self._on_line = chat, eos_ids, on_line
        self._text_tokens: list[int] = []
        self._ended = False
        self._lines = LineStreamer(chat.decode, self._line)

    def elapsed(self) -> float:
        return perf_counter() - self.submitted

    def put(self, token: int) -> None:
        """Take the next token, known on the host. Text ends at the first end token, also where decoding goes on after it."""
        self.tokens.append(token)
        self.last_s = self.elapsed()
        self.ttft_s = self.ttft_s or self.last_s
        if self._ended or token in self._eos_ids:
            self._close_text()
            return
        self._text_tokens.append(token)
        self._lines.put(token)

    def text(self) -> str:
        """The whole text; nothing more will come."""
        self._close_text()
        return self._chat.decode(self._text_tokens)

    def _close_text(self) -> None:
        if not self._ended:
            self._ended = True
            self._lines.close()

    def _line(self, line: str) -> None:
        self.first_skill_s = self.first_skill_s or self.elapsed()
        if self._on_line is not None:
            self._on_line(line)


@dataclass(frozen=True)
class _Cost:
    """What a run has to say about its prompt besides times."""

    layer_tokens: tuple[int, ...]
    stage_tokens: tuple[int, ...]
    kv_bytes: int
    chosen: ChosenSchedule = UNPRUNED


class _LocalBackend(ABC):
    """What the backends with a model in this process share: tokenization, timing, the record. They differ in ``_run``.

    TTFT counts from the call of ``generate`` to the first token known on the host, so it contains tokenization, which is
    also given alone. Each backend tokenizes for itself: a shared cache of tokens would favour whichever runs second.
    """

    trim: Callable[[Prompt], Prompt] | None = None
    """What is cut from a prompt's text before it is tokenized."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.chat = ChatTokenizer(loaded.tokenizer)

    def generate(self, prompt: Prompt, sampling: Sampling, on_line: LineCallback | None = None) -> Generation:
        """Answer ``prompt``. Tokens count the end token; the text does not have it. ``on_line`` gets non-blank lines.

        ``prompt_tokens`` are those of the whole prompt, also where ``trim`` cuts it, so that what was cut counts as dropped.

        Raises ``PromptTooLongError`` where prompt and answer exceed the model's positions, ``OutOfMemoryError`` where they
        exceed the GPU's memory.
        """
        answer = _Answer(self.chat, self.loaded.eos_ids, on_line)
        reset_peak_memory(self.loaded.device)
        tokenized = self._encode(prompt if self.trim is None else self.trim(prompt))
        tokenize_s = answer.elapsed()
        try:
            check_length(self.loaded.model.config, len(tokenized), sampling.max_new_tokens)
        except ContextLengthError as error:
            raise PromptTooLongError(str(error)) from error
        with self._out_of_memory(len(tokenized)):
            cost = self._run(tokenized, sampling, answer)
        return Generation(
            text=answer.text(),
            prompt_tokens=len(tokenized if self.trim is None else self._encode(prompt)),
            new_tokens=len(answer.tokens),
            stage_tokens=cost.stage_tokens,
            layer_tokens=cost.layer_tokens,
            ttft_s=answer.ttft_s,
            first_skill_s=answer.first_skill_s,
            decode_s=answer.last_s - answer.ttft_s,
            total_s=answer.elapsed(),
            tokenize_s=tokenize_s,
            kv_bytes=cost.kv_bytes,
            peak_memory_bytes=peak_memory_bytes(self.loaded.device),
            truncated=self.loaded.eos_ids.isdisjoint(answer.tokens),
            schedule=str(cost.chosen.schedule),
            budget_s=cost.chosen.budget_s,
            predicted_s=cost.chosen.predicted_s,
            budget_met=cost.chosen.budget_met,
            token_ids=tuple(answer.tokens),
        )

    def _encode(self, prompt: Prompt) -> TokenizedPrompt:
        return self.chat.encode((segment.role, segment.text, segment.protected) for segment in prompt.segments)

    @abstractmethod
    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: _Answer) -> _Cost:
        """Prefill and decode, handing each token to ``answer``."""

    def _out_of_memory(self, tokens: int) -> AbstractContextManager[None]:
        return explain_out_of_memory(self.loaded.device, f"a prompt of {tokens} tokens")


class EngineBackend(_LocalBackend):
    """The pruned engine; with the empty schedule it is the baseline. ``choose`` gives every prompt its own schedule instead."""

    def __init__(
        self,
        loaded: LoadedModel,
        schedule: PruneSchedule,
        selector: Selector | None = None,
        choose: Callable[[TokenizedPrompt], ChosenSchedule] | None = None,
    ) -> None:
        super().__init__(loaded)
        self.schedule, self.selector = schedule, selector
        self._choose = choose or (lambda _: ChosenSchedule(schedule, selector))

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: _Answer) -> _Cost:
        chosen = self._choose(tokenized)
        options = DecodeOptions(
            sampling.max_new_tokens, sampling.temperature, sampling.seed, self.loaded.eos_ids, sampling.ignore_eos
        )
        start = prefill(self.loaded.model, tokenized, chosen.schedule, chosen.selector)
        for (token,) in decode(self.loaded.model, start, options):
            if token is not None:
                answer.put(token)
        return _Cost(start.layer_tokens[0], tuple(stage.counts[0] for stage in start.stages), start.kv_bytes, chosen)


class HFGenerateBackend(_LocalBackend):
    """Stock transformers ``generate``: what users have today. Its greedy tokens are the baseline's."""

    def _run(self, tokenized: TokenizedPrompt, sampling: Sampling, answer: _Answer) -> _Cost:
        ids = torch.from_numpy(tokenized.input_ids)[None].to(self.loaded.device)
        devices = [self.loaded.device] if self.loaded.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # generate draws from the global generator
            torch.manual_seed(sampling.seed)
            output: Any = self.loaded.model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), generation_config=self._config(sampling), streamer=_TokenStreamer(answer)
            )
        layers = self.loaded.model.config.num_hidden_layers
        return _Cost((len(tokenized),) * layers, (), self._prompt_kv_bytes(output, len(tokenized)))

    def _config(self, sampling: Sampling) -> GenerationConfig:
        """The sampling, with the model's own generation defaults (repetition penalty, top_k, top_p) set to neutral.

        ``generate`` fills in what is left out from the model's defaults, and has no way to ignore the end token but to name one
        that does not exist: the vocabulary's size.
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

    @staticmethod
    def _prompt_kv_bytes(output: Any, prompt_tokens: int) -> int:
        """Bytes of the cache after prefill: all layers are equally long, so the prompt's share of what is there now."""
        held = output["cache"] if "cache" in output else output["past_key_values"]  # its name until transformers 5.24
        return cache_bytes(held) * prompt_tokens // int(held.get_seq_length())


class _TokenStreamer(BaseStreamer):
    """Hands ``generate``'s tokens to an answer; the first call brings the prompt."""

    def __init__(self, answer: _Answer) -> None:
        self._answer, self._prompt_seen = answer, False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            self._answer.put(int(value))
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing to do: the answer is closed by its backend."""


@dataclass(frozen=True)
class BackendFactory:
    """How a backend is made from its options, and which options it knows."""

    make: Callable[[Mapping[str, str]], _LocalBackend]
    options: tuple[str, ...] = field(default=MODEL_OPTIONS)


def make_backend(spec: BackendSpec) -> PlannerBackend:
    """The backend that ``spec`` describes. Raises ``ValueError`` for an unknown name or option, or a value it cannot use.

    Every backend takes the options of ``planner.trimming``: ``last=K`` or ``mask=K``.
    """
    factory = BACKENDS.get(spec.name)
    if factory is None:
        raise ValueError(f"backend {spec.name!r} is not known here: the engine's backends are {', '.join(BACKENDS)}")
    known = (*factory.options, *TRIMS)
    unknown = [key for key in spec.options if key not in known]
    if unknown:
        raise ValueError(f"backend {spec}: unknown option {', '.join(unknown)}; {spec.name} takes {', '.join(known)}")
    trim = _trim(spec.options)
    backend = factory.make({key: value for key, value in spec.options.items() if key not in TRIMS})
    backend.trim = trim
    return backend


def _trim(options: Mapping[str, str]) -> Callable[[Prompt], Prompt] | None:
    asked = [key for key in options if key in TRIMS]
    if not asked:
        return None
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)} both cut the prompt: give one of them")
    count = _number(options, asked[0], 8, int)
    if count < 1:
        raise ValueError(f"{asked[0]}={count} leaves no observation to plan from: give at least 1")
    trim = TRIMS[asked[0]]
    return lambda prompt: trim(prompt, count)


def _load(options: Mapping[str, str]) -> LoadedModel:
    return load_model(options.get("model"), options.get("dtype"), options.get("device"))


def _load_supported(options: Mapping[str, str]) -> LoadedModel:
    """As ``_load``, for the engine: an architecture that it cannot run is refused before its weights are read."""
    check_config(read_config(options.get("model")))
    return _load(options)


def _baseline(options: Mapping[str, str]) -> _LocalBackend:
    return EngineBackend(_load_supported(options), PruneSchedule.none())


def _hf_generate(options: Mapping[str, str]) -> _LocalBackend:
    return HFGenerateBackend(_load(options))


def _erecap(options: Mapping[str, str]) -> _LocalBackend:
    keep, seed = _number(options, "keep", 0.7, float), _number(options, "seed", 0, int)
    name = options.get("selector", "learned")
    for option, takers in (("pruner", USE_PRUNER), ("seed", ("random",))):
        if option in options and name not in takers:
            takes = " or ".join(takers)
            raise ValueError(f"{option}={options[option]!r} means nothing to selector={name}: only selector={takes} takes it")
    _check_budget(options)
    loaded = _load_supported(options)
    context = SelectorContext(PruneSchedule.none(), _pruner(options, name, loaded), seed, loaded.model, loaded.eos_ids)
    if "budget_ms" in options:
        return EngineBackend(loaded, context.schedule, make_selector(name, context), _chooser(options, name, loaded, context))
    schedule = PruneSchedule.of_stages(options.get("stages"), loaded.model.config.num_hidden_layers, keep)
    return EngineBackend(loaded, _by_rule(options, schedule), make_selector(name, replace(context, schedule=schedule)))


def _pruner(options: Mapping[str, str], selector: str, loaded: LoadedModel) -> TokenPruner | None:
    """The pruner of a selector that scores with one; the others need none."""
    if selector not in USE_PRUNER:
        return None
    if "model" in options and "pruner" not in options:
        raise ValueError(
            f"the bundled pruner belongs to the bundled planner, not to {options['model']!r}: name the model's own with "
            "pruner=DIR (made by `erecap train-pruner`), or use selector=random or selector=recency"
        )
    return load_pruner(options.get("pruner"), loaded)


def _check_budget(options: Mapping[str, str]) -> None:
    if "budget_ms" not in options:
        if "cost" in options:
            raise ValueError(f"cost={options['cost']!r} means nothing without a budget: give budget_ms=300 too, or leave it out")
        return
    fixed = [key for key in ("keep", "stages", "rule") if key in options]
    if fixed:
        raise ValueError(f"budget_ms chooses stages and ratios for each prompt, {' and '.join(fixed)} would fix them: give either")
    if not _number(options, "budget_ms", 300.0, float) > 0:
        raise ValueError(f"budget_ms={options['budget_ms']} must be positive: give the milliseconds that a replan may take")


def _chooser(options: Mapping[str, str], selector: str, loaded: LoadedModel, context: SelectorContext) -> BudgetChooser:
    """Chooses among the stages that the pruner was trained for; selectors that need none can score after every layer."""
    cost = CostModel.load(Path(options.get("cost", DEFAULT_FILE)), Setting.of(loaded, selector))
    stages = None if context.pruner is None else context.pruner.stages
    budget_s = _number(options, "budget_ms", 300.0, float) / 1000
    return BudgetChooser(cost, budget_s, stages, lambda schedule: make_selector(selector, replace(context, schedule=schedule)))


def _by_rule(options: Mapping[str, str], schedule: PruneSchedule) -> PruneSchedule:
    """``schedule`` by the rule that is asked for, with the pruner's calibrated thresholds where the rule takes any."""
    rule = parse_rule(options.get("rule", "top_k"))
    if rule != "threshold":
        return schedule.by_rule(rule)
    if options.get("selector", "learned") != "learned":
        raise ValueError(
            f"rule=threshold compares with thresholds that were fitted to a pruner's scores, not to those of "
            f"selector={options['selector']}: leave the selector out, or use rule=top_k or rule=chunk_top_k"
        )
    return schedule.by_rule(rule, read_calibration(options.get("pruner", bundled_pruner_dir())).taus(schedule))


def _number(options: Mapping[str, str], key: str, default: Number, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(options[key]) if key in options else default
    except ValueError as error:
        raise ValueError(f"{key}={options[key]!r} is not a number: write it like {key}={default}") from error


ERECAP_OPTIONS = (*MODEL_OPTIONS, "keep", "stages", "selector", "pruner", "seed", "rule", "budget_ms", "cost")

BACKENDS: dict[str, BackendFactory] = {
    "baseline": BackendFactory(_baseline),
    "erecap": BackendFactory(_erecap, ERECAP_OPTIONS),
    "hf-generate": BackendFactory(_hf_generate),
}
