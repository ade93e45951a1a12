"""The options of the engine's backends, read from a spec string's text into typed records.

This module loads no model. It refuses every spec whose text alone shows that it is wrong.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from erecap.calibration.cost_model import DEFAULT_FILE
from erecap.models.placement import PlacementOptions
from erecap.schedule import Rule, parse_rule
from erecap.selectors import USE_PRUNER
from planner.grammar import FORMATS, AnswerFormat
from planner.prompt import Prompt
from planner.spec import BackendSpec
from planner.trimming import TRIMS

Number = TypeVar("Number", int, float)
_MEMORY = re.compile(r"(\d+|cpu):(\d+(?:\.\d+)?(?:[KMGT]i?B))")

MODEL_OPTIONS = ("model", "dtype", "device", "device_map", "offload_folder", "max_memory", "reasoning", "format")
PRUNE_OPTIONS = ("keep", "share", "stages", "selector", "pruner", "seed", "rule", "budget_ms", "cost")
SESSION_OPTIONS = ("kv_budget_mb", "draft", "draft_head")
STOCK_SESSION_OPTIONS = ("kv_budget_mb", "lookup")
SESSION_PRUNE_OPTIONS = ("keep", "share", "stages", "selector", "pruner", "rule")
KV_BUDGET_MB = 2048
"""Most megabytes (2**20 bytes) of keys and values of all sessions, where nothing else is said."""
LOOKUP = 10
"""Most tokens that ``hf-session`` copies from the prompt as a guess, where nothing else is said."""
_BUDGET_EXAMPLE_MS = 300.0


@dataclass(frozen=True)
class ModelOptions:
    """The options of every backend with a model in this process.

    Attributes
    ----------
    model
        Directory or hub id; ``None`` for the bundled planner.
    dtype
        Name of the weights' dtype; ``None`` for the device's default.
    placement
        The devices to which the model goes.
    trim
        Shortens the text of a prompt before it is tokenized (``planner.trimming``); ``None`` for the whole prompt.
    """

    model: str | None
    dtype: str | None
    placement: PlacementOptions
    trim: Callable[[Prompt], Prompt] | None


@dataclass(frozen=True)
class PruneOptions:
    """The pruning options of the backend ``erecap``.

    Attributes
    ----------
    keep
        Keep ratio of every stage.
    share
        Share of a prompt that a layer sees on average, from which the keep ratio follows; ``None`` for ``keep``.
    stages
        Layers after which to prune, as ``parse_stages`` reads them; ``None`` for the default stages.
    selector
        Name of the selector.
    pruner
        Directory of the pruner; ``None`` for the bundled one.
    seed
        Seed of the selector ``random``.
    rule
        Rule by which a stage chooses among the tokens that are not forced.
    budget_s
        Seconds that a replan may take; ``None`` without a budget. With one, stages and keep ratios are chosen for each prompt.
    cost_file
        File of the cost model that predicts the seconds.
    """

    keep: float
    share: float | None
    stages: str | None
    selector: str
    pruner: str | None
    seed: int
    rule: Rule
    budget_s: float | None
    cost_file: Path


def check_known(spec: BackendSpec, known: Sequence[str]) -> None:
    """Raise ``ValueError`` where ``spec`` has an option that is not in ``known``."""
    unknown = [key for key in spec.options if key not in known]
    if unknown:
        raise ValueError(f"backend {spec}: unknown option {', '.join(unknown)}; {spec.name} takes {', '.join(known)}")


def read_model_options(options: Mapping[str, str]) -> ModelOptions:
    """Read the options of the model, its place and trimming.

    Raises
    ------
    ValueError
        For two trims, one that leaves no observation, and a ``max_memory`` that cannot be read.
    """
    return ModelOptions(options.get("model"), options.get("dtype"), _placement(options), _trim(options))


def read_prune_options(options: Mapping[str, str]) -> PruneOptions:
    """Read the options of pruning.

    Parameters
    ----------
    options
        All options of the spec; options of the model are ignored.

    Raises
    ------
    ValueError
        For text that is not a number or a rule, an option that has no effect, or options that contradict each other.
    """
    keep, seed = _number(options, "keep", 0.7, float), _number(options, "seed", 0, int)
    selector = options.get("selector", "learned")
    _check_takers(options, selector)
    if "keep" in options and "share" in options:
        given = f"keep={options['keep']} (at each stage) and share={options['share']} (on average)"
        raise ValueError(f"{given} are one choice: give either")
    return PruneOptions(
        keep=keep,
        share=_number(options, "share", 1.0, float) if "share" in options else None,
        stages=options.get("stages"),
        selector=selector,
        pruner=options.get("pruner"),
        seed=seed,
        budget_s=_budget_s(options),
        rule=_rule(options, selector),
        cost_file=Path(options.get("cost", DEFAULT_FILE)),
    )


def read_reasoning(options: Mapping[str, str]) -> bool:
    """Read whether the model may reason before it answers. Raise ``ValueError`` for anything but ``on`` and ``off``."""
    text = options.get("reasoning", "on")
    if text not in ("on", "off"):
        raise ValueError(f"reasoning={text!r} is neither on nor off: write reasoning=off, or leave it out")
    return text == "on"


def read_format(options: Mapping[str, str]) -> AnswerFormat:
    """Read how the model answers, ``free`` by default. Raise ``ValueError`` for an unknown format."""
    text = options.get("format", "free")
    for known in FORMATS:
        if known == text:
            return known
    raise ValueError(f"format={text!r} is unknown: write format=lines or format=choice, or leave it out for free text")


def read_kv_budget(options: Mapping[str, str]) -> int:
    """Read the bytes that all sessions of a backend may take. Raise ``ValueError`` for what is no positive number."""
    megabytes = _number(options, "kv_budget_mb", float(KV_BUDGET_MB), float)
    if not 0 < megabytes < float("inf"):
        raise ValueError(f"kv_budget_mb={options['kv_budget_mb']} holds no session: give a positive number of megabytes")
    return max(1, int(megabytes * 2**20))


def read_lookup(options: Mapping[str, str]) -> int:
    """Read the number of tokens that prompt lookup guesses at once. Raise ``ValueError`` for what is no number, or negative."""
    lookup = _number(options, "lookup", LOOKUP, int)
    if lookup < 0:
        raise ValueError(f"lookup={lookup} tokens cannot be guessed: give a positive number, or 0 to turn prompt lookup off")
    return lookup


@dataclass(frozen=True)
class DraftOptions:
    """The options of drafts.

    Attributes
    ----------
    sources
        Names of the sources.
    head
        Directory of the draft head; ``None`` for the bundled one.
    insists
        Whether the source ``head`` was asked for, so that it must not be left out where there is none.
    """

    sources: tuple[str, ...]
    head: str | None
    insists: bool


def read_drafts(options: Mapping[str, str], known: Sequence[str]) -> DraftOptions:
    """Read the sources of drafts, such as ``plan+context``, all by default.

    Raises
    ------
    ValueError
        For a source that is not ``known``, and a draft head that no source uses.
    """
    text, head = options.get("draft", "+".join(known)), options.get("draft_head")
    asked = [] if text == "none" else text.split("+")
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ValueError(f"draft={text!r} names {', '.join(map(repr, unknown))}: write {', '.join(known)}, several with +, or none")
    if head is not None and "head" not in asked:
        raise ValueError(f"draft_head={head} has no effect with draft={text}: add +head to draft, or leave one out")
    return DraftOptions(tuple(name for name in known if name in asked), head, head is not None or "draft" in options)


def _placement(options: Mapping[str, str]) -> PlacementOptions:
    memory = _memory(options["max_memory"]) if "max_memory" in options else None
    return PlacementOptions(options.get("device"), options.get("device_map"), options.get("offload_folder"), memory)


def _memory(text: str) -> dict[int | str, str]:
    """Read ``0:20GiB+1:20GiB+cpu:60GiB``: memory by number of GPU or ``cpu``."""
    found = [_MEMORY.fullmatch(part.strip()) for part in text.split("+")]
    pairs = [(match[1], match[2]) for match in found if match]
    if len(pairs) < len(found) or len(dict(pairs)) < len(pairs):
        raise ValueError(f"max_memory={text!r} cannot be read: write it by GPU number or cpu, such as 0:20GiB+1:20GiB+cpu:60GiB")
    return {int(device) if device.isdigit() else device: memory for device, memory in pairs}


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


def _check_takers(options: Mapping[str, str], selector: str) -> None:
    for option, takers in (("pruner", USE_PRUNER), ("seed", ("random",))):
        if option in options and selector not in takers:
            takes = " or ".join(takers)
            raise ValueError(f"{option}={options[option]!r} means nothing to selector={selector}: only selector={takes} takes it")


def _budget_s(options: Mapping[str, str]) -> float | None:
    if "budget_ms" not in options:
        if "cost" in options:
            raise ValueError(f"cost={options['cost']!r} means nothing without a budget: give budget_ms=300 too, or leave it out")
        return None
    fixed = [key for key in ("keep", "share", "stages", "rule") if key in options]
    if fixed:
        raise ValueError(f"budget_ms chooses stages and ratios for each prompt, {' and '.join(fixed)} would fix them: give either")
    budget_ms = _number(options, "budget_ms", _BUDGET_EXAMPLE_MS, float)
    if not budget_ms > 0:
        raise ValueError(f"budget_ms={options['budget_ms']} must be positive: give the milliseconds that a replan may take")
    return budget_ms / 1000


def _rule(options: Mapping[str, str], selector: str) -> Rule:
    rule = parse_rule(options.get("rule", "top_k"))
    if rule == "threshold" and selector != "learned":
        raise ValueError(
            f"rule=threshold compares with thresholds that were fitted to a pruner's scores, not to those of "
            f"selector={selector}: leave the selector out, or use rule=top_k or rule=chunk_top_k"
        )
    return rule


def _number(options: Mapping[str, str], key: str, default: Number, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(options[key]) if key in options else default
    except ValueError as error:
        raise ValueError(f"{key}={options[key]!r} is not a number: write it like {key}={default}") from error
