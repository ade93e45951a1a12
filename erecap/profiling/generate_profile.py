"""Prefill and a fixed number of decoded tokens: TTFT, time per output token (TPOT), and a lower bound of TPOT."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from transformers import PreTrainedModel

from erecap.distributed.ranks import agreed
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import PrefillResult, prefill
from erecap.models.device import release_cached_memory, synchronize
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.graph_decode import GraphDecoder
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.shapes import make_random_prompt, read_bytes_per_token
from erecap.profiling.spread import end_if_others_wait
from erecap.profiling.timing import quantiles_ms, ratio_quartiles, take_turns
from erecap.profiling.variants import Variants

DECODERS = ("eager", "graph-flash", "graph-split")
"""Names of the decoders: the engine's own, and the CUDA graph with either attention of ``graph_decode``."""

Decoder = Callable[[PrefillResult], Iterator[int]]


@dataclass(frozen=True)
class GeneratePlan:
    """Settings of the measurement.

    Attributes
    ----------
    lengths
        Prompt lengths in tokens.
    new_tokens
        Tokens to decode per prompt.
    rounds
        Timed generations per length, decoder and variant.
    decoders
        Names from ``DECODERS``.
    seconds
        Seconds that the whole measurement may take.
    capture
        Whether to record the decode step as a CUDA graph. Without it the step's kernels are launched one by one, which also works
        without a GPU.
    """

    lengths: Sequence[int]
    new_tokens: int
    rounds: int
    decoders: Sequence[str]
    seconds: float
    capture: bool


@dataclass(frozen=True)
class _Run:
    """One generation.

    Attributes
    ----------
    token_s
        Seconds from the start of the prefill to each token.
    tokens
        Token ids.
    """

    token_s: list[float]
    tokens: list[int]

    @property
    def ttft_s(self) -> float:
        return self.token_s[0]

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in zip(self.token_s, self.token_s[1:], strict=False)]


def profile_generate(model: PreTrainedModel, variants: Variants, plan: GeneratePlan, copy_rate: float, file: ResultFile) -> None:
    """Measure every decoder at every length for every variant, and add one point each to ``file``.

    For a decoder that fails or runs out of memory, the point's ``status`` gives the reason. Otherwise ``status`` is ``ok`` and the
    point holds:

    - ``prompt_tokens``, ``output_tokens``; ``keep``, the keep ratio; ``decoder``; ``rounds``, the number of timed generations
    - quantiles in ms (``quantiles_ms``) of ``ttft``, ``tpot`` (per output token), ``itl`` (between tokens) and ``e2el`` (the whole)
    - ``output_throughput`` and ``total_token_throughput``: tokens/s without and with the prompt's
    - ``prefill_share``: TTFT / whole time, 0..1
    - ``weight_read_bytes`` per token; ``floor_tpot_ms``, the time to read them at ``copy_rate``; ``share_of_floor``, that time /
      median TPOT
    - ``tokens_like_first_decoder``: length of the common prefix with the first decoder's answer, in tokens
    - ``speedup``, ``p25_speedup``, ``p75_speedup``: baseline's whole time / this one's, over rounds; only with a baseline
    - ``capture_s``, median seconds to build a graph decoder, and ``captured``; only for graph decoders

    Parameters
    ----------
    model
        The model.
    variants
        Schedule and selector by keep ratio.
    plan
        What to measure.
    copy_rate
        The machine's copy rate, in bytes/s.
    file
        Gets the points.
    """
    end = perf_counter() + plan.seconds
    file.expect(len(plan.lengths) * len(plan.decoders) * len(variants))
    for length in plan.lengths:
        prompt = make_random_prompt(model, length)
        reference: dict[float, list[int]] = {}
        for name in plan.decoders:
            if agreed(perf_counter() > end):
                file.add({"prompt_tokens": length, "decoder": name, "status": "left out: --seconds is over"})
                continue
            file.begin(f"{length} tokens, decoder {name}")
            try:
                points = _measure(model, prompt, variants, name, plan, copy_rate, reference)
            except RuntimeError as error:  # a kernel that refuses, a capture that fails, or torch.OutOfMemoryError
                file.add({"prompt_tokens": length, "decoder": name, "status": f"failed: {str(error)[:300]}"})
                end_if_others_wait(error)
                release_cached_memory()
                continue
            for point in points:
                file.add(point)


def _measure(
    model: PreTrainedModel,
    prompt: TokenizedPrompt,
    variants: Variants,
    name: str,
    plan: GeneratePlan,
    copy_rate: float,
    reference: dict[float, list[int]],
) -> list[Row]:
    makers = {keep: _Maker(model, name, plan) for keep in variants}
    calls = {keep: partial(_run, model, prompt, variants[keep], makers[keep]) for keep in variants}
    take_turns(calls, 1)
    runs = take_turns(calls, plan.rounds)
    points = []
    for keep, own in runs.items():
        reference.setdefault(keep, own[0].tokens)
        point = {"prompt_tokens": len(prompt), "keep": keep, "decoder": name, "status": "ok", "rounds": plan.rounds}
        point |= _figures(own, len(prompt)) | _floor(model, own, copy_rate) | makers[keep].facts()
        point["tokens_like_first_decoder"] = _common_prefix(own[0].tokens, reference[keep])
        if 1.0 in runs:
            point |= ratio_quartiles("speedup", [run.token_s[-1] for run in runs[1.0]], [run.token_s[-1] for run in own])
        points.append(point)
    return points


class _Maker:
    """A decoder by name. A graph decoder is built anew for each prefill, and the time of that is recorded."""

    def __init__(self, model: PreTrainedModel, name: str, plan: GeneratePlan) -> None:
        self._model, self._name, self._plan = model, name, plan
        self._capture_s: list[float] = []

    def __call__(self, start: PrefillResult) -> Iterator[int]:
        if self._name == "eager":
            options = DecodeOptions(self._plan.new_tokens, ignore_eos=True)
            return (int(row[0] or 0) for row in decode(self._model, start, options))
        began = perf_counter()
        decoder = GraphDecoder(self._model, start, self._plan.new_tokens, self._name.removeprefix("graph-"))
        if self._plan.capture:
            decoder.capture()
        synchronize(self._model.device)
        self._capture_s.append(perf_counter() - began)
        return decoder.decode()

    def facts(self) -> Row:
        """Return the median seconds to build a graph decoder; empty for the engine's own decoder."""
        if not self._capture_s:
            return {}
        return {"capture_s": sorted(self._capture_s)[len(self._capture_s) // 2], "captured": self._plan.capture}


def _run(model: PreTrainedModel, prompt: TokenizedPrompt, variant: tuple[Any, Any], make: _Maker) -> _Run:
    """Generate once. A graph is built after the first token; the times leave that out."""
    synchronize(model.device)
    start_s = perf_counter()
    start = prefill(model, prompt, *variant)
    start.logits.argmax(-1).tolist()
    first_s = perf_counter() - start_s
    stream = make(start)
    began = perf_counter()
    tokens, times = [next(stream)], [first_s]
    for token in stream:
        tokens.append(token)
        times.append(first_s + perf_counter() - began)
    return _Run(times, tokens)


def _figures(runs: Sequence[_Run], prompt_tokens: int) -> Row:
    new = len(runs[0].tokens)
    per_token = [(run.token_s[-1] - run.ttft_s) / max(1, new - 1) for run in runs]
    whole = [run.token_s[-1] for run in runs]
    return {
        "output_tokens": new,
        **quantiles_ms("ttft", [run.ttft_s for run in runs]),
        **quantiles_ms("tpot", per_token),
        **quantiles_ms("itl", [gap for run in runs for gap in run.gaps_s] or [0.0]),
        **quantiles_ms("e2el", whole),
        "output_throughput": new * len(runs) / sum(whole),
        "total_token_throughput": (prompt_tokens + new) * len(runs) / sum(whole),
        "prefill_share": sum(run.ttft_s for run in runs) / sum(whole),
    }


def _floor(model: PreTrainedModel, runs: Sequence[_Run], copy_rate: float) -> Row:
    """Compute the time to read the weights once at ``copy_rate``, and its share of the median TPOT."""
    floor_ms = read_bytes_per_token(model) / copy_rate * 1e3
    tpot_ms = _figures(runs, 0)["median_tpot_ms"]
    return {"weight_read_bytes": read_bytes_per_token(model), "floor_tpot_ms": floor_ms, "share_of_floor": floor_ms / tpot_ms}


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    same = [a == b for a, b in zip(left, right, strict=True)]
    return same.index(False) if False in same else len(same)


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    short = {"tokens": point["prompt_tokens"], "keep": point.get("keep", ""), "decoder": point.get("decoder", "")}
    if point["status"] != "ok":
        return short | {"status": point["status"]}
    return short | {
        "ttft ms": f"{point['median_ttft_ms']:.1f}",
        "tpot ms": f"{point['median_tpot_ms']:.2f}",
        "p99 itl": f"{point['p99_itl_ms']:.2f}",
        "e2e ms": f"{point['median_e2el_ms']:.1f}",
        "speedup": f"{point['speedup']:.2f}" if "speedup" in point else "",
        "prefill": f"{point['prefill_share']:.1%}",
        "floor ms": f"{point['floor_tpot_ms']:.2f}",
        "of floor": f"{point['share_of_floor']:.1%}",
        "same": f"{point['tokens_like_first_decoder']}/{point['output_tokens']}",
        "status": "ok",
    }
