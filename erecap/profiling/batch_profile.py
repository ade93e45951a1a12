"""Replans per second by the number of prompts that are answered together.

The same prompts, of unequal lengths, are answered in batches of each size. So the sizes differ in nothing but what is answered
together. A batch is prefilled at once, padded to its longest prompt, and decoded at once, as ``generate_batch`` of the backends
``baseline`` and ``erecap`` does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import prefill
from erecap.models.device import release_cached_memory, synchronize
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.shapes import make_random_prompt
from erecap.profiling.timing import quantiles_ms, ratio_quartiles, take_turns
from erecap.profiling.variants import Variant, Variants


@dataclass(frozen=True)
class BatchPlan:
    """Settings of the measurement.

    Attributes
    ----------
    lengths
        Longest prompts, in tokens; the others have from half of that up to it.
    sizes
        Numbers of prompts that are answered together. There are as many prompts as the largest one.
    new_tokens
        Tokens of each answer.
    rounds
        Timed answers of all prompts per size and variant.
    seconds
        Seconds that the whole measurement may take.
    """

    lengths: Sequence[int]
    sizes: Sequence[int]
    new_tokens: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class _Round:
    """Seconds of each batch in which all prompts were answered once, and the largest batch's bytes of keys and values."""

    batches_s: list[float]
    kv_bytes: int

    @property
    def total_s(self) -> float:
        return sum(self.batches_s)


def profile_batches(model: PreTrainedModel, variants: Variants, plan: BatchPlan, file: ResultFile) -> None:
    """Measure each size with each variant at each length, in turn, and add one point each to ``file``.

    A point that was left out or failed has the reason as its ``status``. Otherwise ``status`` is ``ok`` and the point holds:

    - ``prompt_tokens``, ``shortest_tokens`` of the prompts; ``prompts``, their number; ``output_tokens``; ``keep``; ``batch_size``;
      ``rounds``
    - ``replans_per_s``, the median over rounds of prompts / seconds for all of them
    - quantiles in ms (``quantiles_ms``) of ``batch``: one batch, which is the replan latency of each prompt in it
    - ``over_alone``: seconds with one prompt at a time / seconds, median of ratios over rounds; only where size 1 is measured
    - ``speedup``: seconds without pruning at the same size / seconds; only with a baseline
    - ``kv_bytes``: keys and values of the largest batch after its prefill

    Parameters
    ----------
    model
        The model.
    variants
        Schedule and selector by keep ratio.
    plan
        What to measure.
    file
        Gets the points.
    """
    end = perf_counter() + plan.seconds
    cases = list(product(variants, plan.sizes))
    file.expect(len(plan.lengths) * len(cases))
    for length in plan.lengths:
        file.begin(f"{length} tokens")
        if perf_counter() > end:
            points = [_named(length, case, "left out: --seconds is over") for case in cases]
        else:
            points = list(_points(model, variants, plan, length, cases))
        for point in points:
            file.add(point)


def _points(
    model: PreTrainedModel, variants: Variants, plan: BatchPlan, length: int, cases: list[tuple[float, int]]
) -> Iterator[Row]:
    """Measure all cases at one length, in turn; a case that fails in the warm-up is left out of the rounds."""
    prompts = mixed_prompts(model, length, max(plan.sizes))
    calls = {case: partial(_answer_all, model, prompts, variants[case[0]], case[1], plan.new_tokens) for case in cases}
    failed: dict[tuple[float, int], str] = {}
    for case, call in calls.items():
        try:
            call()
        except RuntimeError as error:  # a kernel that refuses, or torch.OutOfMemoryError
            failed[case] = f"failed: {str(error)[:300]}"
            release_cached_memory()
    measured = take_turns({case: call for case, call in calls.items() if case not in failed}, plan.rounds)
    for case in cases:
        if case in failed:
            yield _named(length, case, failed[case])
        else:
            facts = {"shortest_tokens": min(map(len, prompts)), "prompts": len(prompts), "output_tokens": plan.new_tokens}
            yield _named(length, case, "ok") | facts | _figures(case, measured, len(prompts))


def mixed_prompts(model: PreTrainedModel, longest: int, count: int) -> list[TokenizedPrompt]:
    """Make random prompts with lengths evenly spaced from half of ``longest`` up to it, in an order drawn by their number."""
    lengths = np.linspace(longest, max(1, longest // 2), count).round().astype(int)
    return [make_random_prompt(model, length) for length in np.random.default_rng(count).permutation(lengths).tolist()]


def _answer_all(model: PreTrainedModel, prompts: Sequence[TokenizedPrompt], variant: Variant, size: int, new_tokens: int) -> _Round:
    seconds, kv_bytes = list[float](), 0
    for first in range(0, len(prompts), size):
        synchronize(model.device)
        start = perf_counter()
        made = prefill(model, list(prompts[first : first + size]), *variant)
        for _ in decode(model, made, DecodeOptions(new_tokens, ignore_eos=True)):
            pass
        synchronize(model.device)
        seconds.append(perf_counter() - start)
        kv_bytes = max(kv_bytes, made.kv_bytes)
    return _Round(seconds, kv_bytes)


def _named(length: int, case: tuple[float, int], status: str) -> Row:
    return {"prompt_tokens": length, "keep": case[0], "batch_size": case[1], "status": status}


def _figures(case: tuple[float, int], measured: dict[tuple[float, int], list[_Round]], prompts: int) -> Row:
    keep, size = case
    own = measured[case]
    total_s = [one.total_s for one in own]
    figures = {
        "rounds": len(own),
        "replans_per_s": median(prompts / spent for spent in total_s),
        **quantiles_ms("batch", [spent for one in own for spent in one.batches_s]),
        "kv_bytes": own[0].kv_bytes,
    }
    for name, other in (("over_alone", (keep, 1)), ("speedup", (1.0, size))):
        if other in measured:
            figures |= ratio_quartiles(name, [one.total_s for one in measured[other]], total_s)
    return figures


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    short = {"tokens": point["prompt_tokens"], "keep": point.get("keep", ""), "batch": point.get("batch_size", "")}
    if point["status"] != "ok":
        return short | {"status": point["status"]}
    return short | {
        "tokens": f"{point['shortest_tokens']}-{point['prompt_tokens']}",
        "replans/s": f"{point['replans_per_s']:.2f}",
        "over batch 1": f"{point['over_alone']:.2f}" if "over_alone" in point else "",
        "speedup": f"{point['speedup']:.2f}" if "speedup" in point else "",
        "batch ms": f"{point['median_batch_ms']:.1f}",
        "KV MB": f"{point['kv_bytes'] / 1e6:.1f}",
        "status": "ok",
    }
