"""The time of a prefill by part of the model and by kernel, from a torch.profiler trace."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import PreTrainedModel

from erecap.engine.prefill import prefill
from erecap.models.device import synchronize
from erecap.profiling.results import ResultFile, Row, measured_points
from erecap.profiling.shapes import make_random_prompt
from erecap.profiling.timing import seconds_of
from erecap.profiling.variants import Variants
from erecap.selectors import PreparedSelector, Selector

PARTS = (
    "attention",
    "linear",
    "norm",
    "elementwise",
    "rope and cache",
    "scorer",
    "select",
    "gather",
    "lm_head",
    "embedding",
    "other",
)
"""Parts of the model. ``linear`` is every matrix of the layers, ``elementwise`` the activation and the residual sums."""

_PREFIX = "part:"
_ATTENTION = ("aten::scaled_dot_product", "aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention")
_GATHER = ("aten::index_select",)
_SELECT = ("aten::sort", "aten::argsort", "aten::topk", "aten::gather", "aten::masked_fill", "aten::nan_to_num", "aten::gt")


def profile_trace(model: PreTrainedModel, variants: Variants, length: int, file: ResultFile) -> None:
    """Trace one prefill of ``length`` tokens for every variant, and add a point each to ``file``.

    A point holds ``prompt_tokens``; ``keep``, the keep ratio; ``status``; ``untraced_ms``, the shortest of three prefills without
    the profiler; and the times of ``summarise``.
    """
    prompt = make_random_prompt(model, length)
    file.begin(f"{length} tokens")
    for keep, (schedule, selector) in variants.items():
        run = partial(prefill, model, prompt, schedule, selector)
        run()
        plain_ms = min(seconds_of(run, model.device) for _ in range(3)) * 1e3
        ranged = None if selector is None else _ranged(selector)
        events = _trace(model, partial(prefill, model, prompt, schedule, ranged))
        file.add(
            {"prompt_tokens": length, "keep": keep, "status": "ok", "untraced_ms": plain_ms, **summarise(events, model.device)}
        )


def _trace(model: PreTrainedModel, run: Any) -> Sequence[FunctionEvent]:
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if model.device.type == "cuda" else [])
    with torch.inference_mode(), _ranges(model):
        with profile(activities=activities):  # the first trace of a process includes the start of the profiler
            synchronize(model.device)
        with profile(activities=activities) as taken:
            run()
            synchronize(model.device)
    return taken.events() or []


class _RangedSelector:
    """A selector whose calls of ``score`` are ranges of the trace."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector

    def score(self, hidden: Tensor, positions: Tensor, stage_index: int, lengths: Tensor) -> Tensor:
        """See ``Selector.score``."""
        with record_function(_PREFIX + "scorer"):
            return self._selector.score(hidden, positions, stage_index, lengths)


class _RangedPreparedSelector(_RangedSelector):
    """The same for a selector that sees the whole prompts first."""

    _selector: PreparedSelector

    def prepare(self, ids: Tensor, lengths: Sequence[int]) -> None:
        """See ``PreparedSelector.prepare``."""
        with record_function(_PREFIX + "scorer"):
            self._selector.prepare(ids, lengths)


def _ranged(selector: Selector) -> Selector:
    return _RangedPreparedSelector(selector) if isinstance(selector, PreparedSelector) else _RangedSelector(selector)


@contextmanager
def _ranges(model: PreTrainedModel) -> Iterator[None]:
    """Make a range of the trace of every call of a module. Time in an inner range does not count to the outer one."""
    with ExitStack() as stack:
        for module, part in _modules(model):
            open_ranges: list[Any] = []
            before = module.register_forward_pre_hook(partial(_enter, part, open_ranges))
            after = module.register_forward_hook(partial(_leave, open_ranges))
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield


def _enter(part: str, open_ranges: list[Any], *_: Any) -> None:
    open_ranges.append(record_function(_PREFIX + part))
    open_ranges[-1].__enter__()


def _leave(open_ranges: list[Any], *_: Any) -> None:
    open_ranges.pop().__exit__(None, None, None)


def _modules(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str]]:
    parts: Any = model  # transformers' accessors are untyped
    decoder = parts.get_decoder()
    yield decoder.embed_tokens, "embedding"
    yield decoder.rotary_emb, "rope and cache"
    yield decoder.norm, "norm"
    yield parts.get_output_embeddings(), "lm_head"
    for layer in decoder.layers:
        yield layer, "elementwise"
        yield layer.self_attn, "rope and cache"
        yield from ((module, "norm") for module in (layer.input_layernorm, layer.post_attention_layernorm))
        yield from ((module, "linear") for module in layer.modules() if isinstance(module, nn.Linear))


def summarise(events: Sequence[FunctionEvent], device: torch.device) -> Row:
    """Add up the time of ``events``: on a GPU of its kernels, on a CPU of the operations without those that they call.

    Returns
    -------
    dict
        ``device_ms``, the whole time; ``parts_ms`` and ``parts_share`` (0..1), by part of ``PARTS``; ``kernel_count``, the number
        of kernel calls; ``kernels``, the 25 with the most time, each ``name``, ``ms`` and ``count`` (calls). Times and shares are
        ``None`` where no kernel was recorded.
    """
    parts, kernels, counts = dict.fromkeys(PARTS, 0.0), defaultdict[str, float](float), defaultdict[str, int](int)
    for event in events:
        if event.name.startswith(_PREFIX):
            continue
        part = _part_of(event)
        for name, microseconds in _costs(event, device):
            parts[part] += microseconds / 1e3
            kernels[name] += microseconds / 1e3
            counts[name] += 1
    longest = sorted(kernels, key=lambda name: -kernels[name])[:25]
    total = sum(parts.values())
    return {
        "device_ms": total or None,
        "parts_ms": {part: spent if total else None for part, spent in parts.items()},
        "parts_share": {part: spent / total if total else None for part, spent in parts.items()},
        "kernel_count": sum(counts.values()),
        "kernels": [{"name": name[:160], "ms": kernels[name], "count": counts[name]} for name in longest],
    }


def _costs(event: FunctionEvent, device: torch.device) -> Iterator[tuple[str, float]]:
    """Yield name and microseconds of the work that ``event`` itself gave the device, without the events below it."""
    if device.type == "cuda":
        yield from ((kernel.name, kernel.duration) for kernel in event.kernels if not kernel.name.startswith(_PREFIX))
    elif event.self_cpu_time_total > 0:
        yield event.name, event.self_cpu_time_total


def _part_of(event: FunctionEvent) -> str:
    """Name the part of ``event``: attention by its operation, else the innermost range, else gather, select or other."""
    names = [event.name]
    above = event.cpu_parent
    while above is not None:
        names.append(above.name)
        above = above.cpu_parent
    if any(name.startswith(_ATTENTION) for name in names):
        return "attention"
    ranges = [name for name in names if name.startswith(_PREFIX)]
    if ranges:
        return ranges[0].removeprefix(_PREFIX)
    if any(name.startswith(_GATHER) for name in names):
        return "gather"
    return "select" if any(name.startswith(_SELECT) for name in names) else "other"


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table: one row per length and part, with milliseconds and share of each keep ratio."""
    rows, measured = [], measured_points(points)
    for length, part in product(dict.fromkeys(point["prompt_tokens"] for point in measured), PARTS):
        row: dict[str, Any] = {"tokens": length, "part": part}
        for point in (point for point in measured if point["prompt_tokens"] == length):
            spent, share = point["parts_ms"][part], point["parts_share"][part]
            row[f"keep {point['keep']} ms"] = "-" if spent is None else f"{spent:.2f}"
            row[f"keep {point['keep']} share"] = "-" if share is None else f"{share:.1%}"
        rows.append(row)
    return rows
