"""Prefill alone on random tokens: baseline, pruned and stock ``generate`` timed in turn, and compared with the ceiling.

Closed loops and replays of recorded prompts are in ``benchmarks.comparison``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from transformers import GenerationConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.micro.pruner_cost import measure_pruner_cost
from benchmarks.micro.timing import in_turn
from erecap.calibration.flops import ceiling
from erecap.engine.prefill import prefill
from erecap.models.device import synchronize
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.selectors import Selector, SelectorContext, make_selector


class PrefillPoint(BaseModel):
    """The prefill of one prompt length. Ratios are medians of the ratios within each round.

    Attributes
    ----------
    prompt_tokens
        Tokens of the prompt.
    layer_tokens
        Tokens that enter each layer of the pruned prefill.
    dropped_tokens
        Number of prompt tokens that do not enter the last layer.
    kept_share
        Share of the prompt's tokens that enter a layer, mean over layers, 0..1.
    baseline_s
        Median seconds of the unpruned prefill.
    erecap_s
        Median seconds of the pruned prefill.
    hf_generate_s
        Median seconds of stock ``generate`` with one new token.
    speedup_p50
        Median of baseline time / pruned time.
    ceiling
        Largest speedup that the dropped tokens allow, from FLOPs (``erecap.calibration.flops.ceiling``).
    of_ceiling_p50
        ``speedup_p50`` / ``ceiling``.
    hf_over_baseline_p50
        Median of stock ``generate`` time / baseline time.
    scoring_share
        Share of scoring in the pruned prefill's time, 0..1.
    selection_share
        Share of choosing the survivors in that time, 0..1.
    dropping_share
        Share of gathering the survivors in that time, 0..1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: int
    layer_tokens: list[int]
    dropped_tokens: int
    kept_share: float
    baseline_s: float
    erecap_s: float
    hf_generate_s: float
    speedup_p50: float
    ceiling: float
    of_ceiling_p50: float
    hf_over_baseline_p50: float
    scoring_share: float
    selection_share: float
    dropping_share: float

    @property
    def pruner_share(self) -> float:
        """Share of scoring, selection and dropping together in the pruned prefill's time, 0..1."""
        return self.scoring_share + self.selection_share + self.dropping_share


class PrefillReport(BaseModel):
    """The result of a measurement on one machine. Times hold for that machine only, so quote the ratios.

    Attributes
    ----------
    model
        Name of the model.
    model_checksum
        Checksum of its weights (``ModelIdentity``).
    device
        Torch device.
    dtype
        Dtype of the weights.
    threads
        CPU threads of torch.
    selector
        Name of the selector.
    keep
        Keep ratio of every stage.
    rounds
        Number of timed rounds.
    points
        One entry per prompt length.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_checksum: str
    device: str
    dtype: str
    threads: int
    selector: str
    keep: float
    rounds: int
    points: list[PrefillPoint]


def measure_prefill(
    model: PreTrainedModel,
    keep: float = 0.7,
    selector: str = "learned",
    pruner: TokenPruner | None = None,
    lengths: Sequence[int] = (2048, 4096),
    rounds: int = 9,
) -> PrefillReport:
    """Time prefill to the first token: baseline, pruned and stock ``generate`` in turn.

    The schedule has the default stages. Devices are synchronized around each timing. The order rotates from round to round, and
    warm-up rounds are left out.

    Parameters
    ----------
    model
        The model.
    keep
        Keep ratio of every stage.
    selector
        Name of the selector that scores tokens.
    pruner
        The pruner, for selectors that use one.
    lengths
        Prompt lengths in tokens.
    rounds
        Number of timed rounds.

    Raises
    ------
    ValueError
        For fewer than 1 round, and for the reasons of ``prefill`` and ``make_selector``.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1: a median needs a measurement")
    schedule = PruneSchedule.for_depth(model.config.num_hidden_layers, keep)
    scorer, identity = make_selector(selector, SelectorContext(schedule, pruner, model=model)), identify(model)
    return PrefillReport(
        model=identity.name,
        model_checksum=identity.checksum,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        selector=selector,
        keep=keep,
        rounds=rounds,
        points=[_measure_length(model, schedule, scorer, length, rounds) for length in lengths],
    )


def random_model(dtype: torch.dtype, device: str = "cpu", num_layers: int = 8) -> PreTrainedModel:
    """Make a random Qwen2 of the bundled planner's shape, for timings without a trained planner."""
    config = Qwen2Config(
        vocab_size=1024, hidden_size=128, intermediate_size=512, num_hidden_layers=num_layers, num_attention_heads=4,
        num_key_value_heads=1, head_dim=64, max_position_embeddings=16384, initializer_range=0.08, tie_word_embeddings=True,
        attn_implementation="sdpa",
    )  # type: ignore[call-arg]  # head_dim is an extra field of the config  # fmt: skip
    model: Any = Qwen2ForCausalLM(config)
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)  # type: ignore[no-any-return]


def random_pruner(model: PreTrainedModel, keep: float = 0.7) -> TokenPruner:
    """Make an untrained pruner for the default stages of ``model``; it takes as long as a trained one."""
    schedule = PruneSchedule.for_depth(model.config.num_hidden_layers, keep)
    pruner = TokenPruner(identify(model), schedule.layers)
    return pruner.to(model.device, model.dtype).eval().requires_grad_(False)


def random_prompt(model: PreTrainedModel, length: int) -> TokenizedPrompt:
    """Make a prompt of ``length`` random tokens, the same at every call; none is protected."""
    return TokenizedPrompt.from_ids(np.random.default_rng(length).integers(0, model.config.vocab_size, length))


def _measure_length(model: PreTrainedModel, schedule: PruneSchedule, selector: Selector, length: int, rounds: int) -> PrefillPoint:
    prompt = random_prompt(model, length)
    layer_tokens = prefill(model, prompt, schedule, selector).layer_tokens[0]
    times = _time_in_turn(
        {
            "baseline": lambda: prefill(model, prompt).logits.argmax(-1).tolist(),
            "erecap": lambda: prefill(model, prompt, schedule, selector).logits.argmax(-1).tolist(),
            "hf_generate": lambda: _stock(model, prompt),
        },
        rounds,
        model.device,
    )
    speedup, most = _median_ratio(times["baseline"], times["erecap"]), ceiling(model.config, layer_tokens)
    cost = measure_pruner_cost(model, prompt, schedule, selector, rounds)
    return PrefillPoint(
        prompt_tokens=length,
        layer_tokens=list(layer_tokens),
        dropped_tokens=length - layer_tokens[-1],
        kept_share=sum(layer_tokens) / len(layer_tokens) / length,
        baseline_s=median(times["baseline"]),
        erecap_s=median(times["erecap"]),
        hf_generate_s=median(times["hf_generate"]),
        speedup_p50=speedup,
        ceiling=most,
        of_ceiling_p50=speedup / most,
        hf_over_baseline_p50=_median_ratio(times["hf_generate"], times["baseline"]),
        scoring_share=cost.scoring,
        selection_share=cost.selection,
        dropping_share=cost.dropping,
    )


def _time_in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Time each call in each round, in seconds."""
    return in_turn({name: partial(_seconds, call, device) for name, call in calls.items()}, rounds)


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = perf_counter()
    call()
    synchronize(device)
    return perf_counter() - start


def _stock(model: Any, prompt: TokenizedPrompt) -> Any:
    """Run stock ``generate`` for one token."""
    ids = torch.from_numpy(prompt.input_ids)[None].to(model.device)
    config = GenerationConfig(max_new_tokens=1, do_sample=False, eos_token_id=[model.config.vocab_size], pad_token_id=0)  # type: ignore[no-untyped-call]
    return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))
