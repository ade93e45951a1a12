"""Replans of a recorded episode on any model, with and without sessions: what a kept cache, drafts and pruning save.

Tokens, protected spans and drafts are those of a trace (``replan_trace``), and every answer is scripted to be the recorded one. So
drafts are accepted as they were recorded, and all backends do the same work. The weights may be random.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from erecap.distributed.ranks import agreed
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import prefill
from erecap.engine.selector_protocol import Selector
from erecap.models.device import release_cached_memory, synchronize
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.replan_trace import ReplanTrace, TracedReplan
from erecap.profiling.results import ResultFile, Row
from erecap.profiling.spread import end_if_others_wait
from erecap.profiling.timing import quantiles_ms, ratio_quartiles, take_turns
from erecap.schedule import PruneSchedule
from erecap.sessions import ReplanSession
from erecap.sessions.drafts import CopyDraft, FirstDraft, SuffixDraft
from erecap.sessions.session import opening_draft

BASELINE, SESSION = "baseline", "baseline-session?draft=none"
"""Names of the two that the others are compared with."""


@dataclass(frozen=True)
class SessionPlan:
    """Settings of the measurement.

    Attributes
    ----------
    lengths
        Tokens of the prompt of the last replan.
    replans
        Replans that are timed at each length, after one that is not.
    rounds
        Rounds, in rotating order of the backends.
    seconds
        Seconds that the whole measurement may take.
    """

    lengths: Sequence[int]
    replans: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Replan:
    """One replan, ready to be run: tokens of a window of a trace, with its filler."""

    observed: TokenizedPrompt | None
    """What a session may take in before."""
    prompt: TokenizedPrompt
    """The prompt."""
    drafter: FirstDraft
    """The sources of drafts."""
    options: DecodeOptions
    """Scripts the answer."""


@dataclass(frozen=True)
class Spent:
    """What one replan took."""

    replan_s: float
    """Seconds from the prompt to the end of the answer."""
    ttft_s: float
    """Seconds to the first token."""
    observe_s: float
    """Seconds in which the history was taken in before."""
    passes: int
    """Forward passes of the answer."""
    reused: int
    """Tokens of the prompt that were not run for it, neither before nor in the replan."""
    kv_bytes: int
    """Bytes of the prompt's keys and values."""


Pruning = tuple[PruneSchedule, Selector | None]
"""Schedule and selector of a session."""
Episode = Callable[[], list[Spent]]
"""Plays the replans of a window once, and returns what each took."""


def profile_sessions(
    model: PreTrainedModel, schedules: Mapping[str, Pruning], trace: ReplanTrace, plan: SessionPlan, file: ResultFile
) -> None:
    """Measure all backends at every length and add one point each to ``file``.

    A point has ``prompt_tokens`` (of the last replan), ``backend``, ``status``, and where that is ``ok``: ``rounds``, ``replans``,
    ``new_tokens`` (mean tokens of an answer), quantiles in ms of ``replan``, ``ttft`` and ``observe``, ``passes`` (mean forward
    passes), ``reused_tokens`` (mean), ``kv_bytes``, and the quartiles of ``speedup`` and ``session_speedup``: the replan latency of
    ``baseline`` and of an unpruned session without drafts over this one's, replan by replan.

    Parameters
    ----------
    model
        The model.
    schedules
        Schedules of pruned sessions by name, with their selectors.
    trace
        The recorded episode.
    plan
        What to measure.
    file
        Gets the points.
    """
    end = perf_counter() + plan.seconds
    file.expect(len(plan.lengths) * (3 + 2 * len(schedules)))
    for length in plan.lengths:
        if agreed(perf_counter() > end):
            file.add({"prompt_tokens": length, "status": "left out: --seconds is over"})
            continue
        file.begin(f"{length} tokens")
        replans = replans_at(trace, length, plan.replans + 1, model.config.vocab_size)
        try:
            points = _measure(_episodes(model, schedules, replans), plan.rounds)
        except RuntimeError as error:  # torch.OutOfMemoryError among others
            file.add({"prompt_tokens": length, "status": f"failed: {str(error)[:300]}"})
            end_if_others_wait(error)
            release_cached_memory()
            continue
        new = float(np.mean([len(replan.options.script) for replan in replans[1:]]))
        for point in points:
            facts = {"prompt_tokens": len(replans[-1].prompt), "replans": len(replans) - 1, "new_tokens": new, "status": "ok"}
            file.add(facts | point)


def replans_at(trace: ReplanTrace, length: int, count: int, vocabulary: int) -> list[Replan]:
    """Make the replans of a window whose last prompt is ``length`` tokens long, or as long as the trace allows.

    Raises
    ------
    ValueError
        For a model whose vocabulary is smaller than the trace's.
    """
    if max(trace.ids) >= vocabulary:
        raise ValueError(f"the trace has token {max(trace.ids)}, the model {vocabulary} tokens: use a model of a larger vocabulary")
    window, missing = trace.window(length, count)
    filler = np.random.default_rng(length).choice(np.unique(trace.ids), missing)
    return [_replan(trace, one, filler) for one in window]


def _replan(trace: ReplanTrace, one: TracedReplan, filler: NDArray[np.int64]) -> Replan:
    prompt = trace.prompt(one.prompt, filler)
    sources = (CopyDraft(np.array(one.draft, np.int64), frozenset(trace.line_breaks)), SuffixDraft(prompt.input_ids))
    options = DecodeOptions(len(one.answer), ignore_eos=True, script=one.answer)
    observed = None if one.observed is None else trace.prompt(one.observed, filler)
    return Replan(observed, prompt, FirstDraft(sources, frozenset(trace.end_tokens)), options)


def _episodes(model: PreTrainedModel, schedules: Mapping[str, Pruning], replans: Sequence[Replan]) -> dict[str, Episode]:
    """Make the episode of each backend: from scratch, in an unpruned session, and in pruned ones, with and without drafts."""
    none: Pruning = (PruneSchedule.none(), None)
    episodes: dict[str, Episode] = {BASELINE: partial(_from_scratch, model, replans)}
    for name, (schedule, selector) in {"baseline-session": none, **schedules}.items():
        joined = "&" if "?" in name else "?"
        for drafted in (False, True):
            make = partial(ReplanSession, model, schedule, selector)
            played = partial(_in_session, make, replans, drafted, model.device)
            episodes[name if drafted else f"{name}{joined}draft=none"] = played
    return episodes


def _from_scratch(model: PreTrainedModel, replans: Sequence[Replan]) -> list[Spent]:
    spent = []
    for replan in replans[1:]:
        synchronize(model.device)
        began = perf_counter()
        start = prefill(model, replan.prompt, PruneSchedule.none())
        stream = decode(model, start, replan.options)
        next(stream)
        first = perf_counter()
        passes = 1 + sum(1 for _ in stream)
        spent.append(Spent(perf_counter() - began, first - began, 0.0, passes, 0, start.kv_bytes))
    return spent


def _in_session(make: Callable[[], ReplanSession], replans: Sequence[Replan], drafted: bool, device: torch.device) -> list[Spent]:
    session = make()
    _take_turn(session, replans[0], drafted, device)
    return [_take_turn(session, replan, drafted, device) for replan in replans[1:]]


def _take_turn(session: ReplanSession, replan: Replan, drafted: bool, device: torch.device) -> Spent:
    """Take in what is new before the replan, then extend by the rest of the prompt and write the answer."""
    synchronize(device)
    began = perf_counter()
    held = None if replan.observed is None else session.extend(replan.observed).reused_tokens
    synchronize(device)
    asked, passes = perf_counter(), list[object]()
    draft = opening_draft(replan.drafter, replan.options.max_new_tokens) if drafted else ()
    made = session.extend(replan.prompt, draft)
    stream = session.plan(replan.options, replan.drafter if drafted else None, passes.append)
    next(stream)
    first = perf_counter()
    written = 1 + sum(1 for _ in stream)
    reused = made.reused_tokens if held is None else held
    return Spent(perf_counter() - asked, first - asked, asked - began, len(passes) or written, reused, made.kv_bytes)


def _measure(episodes: Mapping[str, Episode], rounds: int) -> list[Row]:
    take_turns(episodes, 1)
    played = take_turns(episodes, rounds)
    flat = {name: [spent for one in own for spent in one] for name, own in played.items()}
    return [
        {
            "backend": name,
            "rounds": rounds,
            **quantiles_ms("replan", [one.replan_s for one in own]),
            **quantiles_ms("ttft", [one.ttft_s for one in own]),
            **quantiles_ms("observe", [one.observe_s for one in own]),
            "passes": float(np.mean([one.passes for one in own])),
            "reused_tokens": float(np.mean([one.reused for one in own])),
            "kv_bytes": own[-1].kv_bytes,
            **ratio_quartiles("speedup", [one.replan_s for one in flat[BASELINE]], [one.replan_s for one in own]),
            **ratio_quartiles("session_speedup", [one.replan_s for one in flat[SESSION]], [one.replan_s for one in own]),
        }
        for name, own in flat.items()
    ]


def summary_rows(points: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table row of each point."""
    return [_summary(point) for point in points]


def _summary(point: Row) -> dict[str, Any]:
    if point["status"] != "ok":
        return {"tokens": point["prompt_tokens"], "backend": "", "status": point["status"]}
    return {
        "tokens": point["prompt_tokens"],
        "backend": point["backend"],
        "replan ms": f"{point['median_replan_ms']:.1f}",
        "ttft ms": f"{point['median_ttft_ms']:.1f}",
        "before ms": f"{point['median_observe_ms']:.1f}",
        "answer": f"{point['new_tokens']:.0f}",
        "passes": f"{point['passes']:.1f}",
        "kv MiB": f"{point['kv_bytes'] / 2**20:.1f}",
        "x baseline": f"{point['speedup']:.2f}",
        "x session": f"{point['session_speedup']:.2f}",
        "status": "ok",
    }
