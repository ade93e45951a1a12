"""The ``Summary`` of a comparison, computed from its records.

It holds the figures of each backend, and the differences from the reference on the same seeds and prompts.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agents.records import EpisodeRecord, PlannerCall
from benchmarks.backends.registry import EXPERT
from benchmarks.comparison import metrics
from benchmarks.comparison.replans import summarize_replans
from benchmarks.comparison.replay import Measured, ReplayRow
from benchmarks.comparison.schema import (
    BackendSummary,
    BudgetSummary,
    ByteSpread,
    ClockSummary,
    EarlySummary,
    EnvSummary,
    PairedSummary,
    ReplaySummary,
    Summary,
    TimeSpread,
    TokenSpread,
)
from benchmarks.comparison.sessions import summarize_sessions
from benchmarks.runs.closed_loop import ClosedLoop
from benchmarks.runs.records import BackendRecords
from benchmarks.runs.suites import Case


def summarize(loop: ClosedLoop, played: Mapping[str, BackendRecords], rows: Sequence[ReplayRow], complete: bool) -> Summary:
    """Sum up what has been played and replayed so far.

    Parameters
    ----------
    loop : ClosedLoop
        The episodes that were to be played.
    played : mapping of str to BackendRecords
        Records of the loop's cases by spec string.
    rows : sequence of ReplayRow
        Replayed prompts.
    complete : bool
        Whether everything was played and replayed.

    Returns
    -------
    Summary
        All figures.
    """
    played = {backend: _sorted(records) for backend, records in played.items()}
    expert = played.get(EXPERT, BackendRecords())
    spls = {backend: _spls(p, expert) for backend, p in played.items()}
    reference = loop.reference
    return Summary(
        suite=loop.suite.name,
        seed=loop.seed,
        complete=complete,
        reference=reference,
        backends={backend: _backend(p, spls[backend]) for backend, p in played.items() if p.episodes},
        paired={
            backend: summary
            for backend in played
            if backend != reference
            and reference in played
            and (summary := _paired(backend, reference, played, spls, rows)) is not None
        },
        replay=_replays(rows),
    )


def _sorted(records: BackendRecords) -> BackendRecords:
    """Sort the episodes. Sums and resampling depend on the order, and workers finish episodes in any order."""
    return records.of_cases(sorted(records.episodes, key=lambda case: (case.seed, case.env_id)))


def _spls(played: BackendRecords, expert: BackendRecords) -> dict[Case, float]:
    return {
        case: metrics.spl(episode.success, expert.episodes[case].env_steps, episode.env_steps)
        for case, episode in played.episodes.items()
        if case in expert.episodes
    }


def _backend(played: BackendRecords, spls: Mapping[Case, float]) -> BackendSummary:
    episodes, calls = list(played.episodes.values()), played.calls
    layered = [call.generation for call in calls if call.generation.layer_tokens]
    successes = sum(e.success for e in episodes)
    return BackendSummary(
        episodes=len(episodes),
        success_rate=successes / len(episodes),
        success_ci95=metrics.wilson_interval(successes, len(episodes)),
        subgoal_progress=sum(_progress(e) for e in episodes) / len(episodes),
        spl=metrics.mean(list(spls.values())),
        spl_ci95=metrics.bootstrap_interval(list(spls.values())) if spls else None,
        replans_mean=sum(e.replans for e in episodes) / len(episodes),
        prompt_tokens=_tokens(tokens for call in calls if (tokens := call.generation.prompt_tokens)),
        kept_share=metrics.mean([made.kept_share for made in layered]),
        dropped_tokens=_tokens(made.dropped_tokens for made in layered),
        ttft_s=_times(seconds for call in calls if (seconds := call.generation.ttft_s)),
        replan_s=_times(call.replan_s for call in calls if call.parse_error is None),
        overhead_s=_times(call.overhead_s for call in calls),
        kv_bytes=_bytes(size for call in calls if (size := call.generation.kv_bytes)),
        parse_errors=sum(e.parse_errors for e in episodes),
        by_env=_by_env(episodes),
        budget=_budget([call for call in calls if call.parse_error is None]),
        final_share=metrics.mean([made.layer_tokens[-1] / made.prompt_tokens for made in layered if made.prompt_tokens]),
        replans=summarize_replans(played.by_episode()),
        sessions=summarize_sessions(calls),
        clock=_clock(episodes, calls),
        early=_early(calls),
    )


def _budget(calls: Sequence[PlannerCall]) -> BudgetSummary | None:
    """Sum up the replans that had a latency budget; ``None`` where there are none."""
    limited = [(call, call.generation.budget_s) for call in calls if call.generation.budget_s is not None]
    if not limited:
        return None
    return BudgetSummary(
        predicted=sum(bool(call.generation.budget_met) for call, _ in limited) / len(limited),
        within=sum(call.replan_s <= budget_s for call, budget_s in limited) / len(limited),
    )


def _clock(episodes: Sequence[EpisodeRecord], calls: Sequence[PlannerCall]) -> ClockSummary | None:
    """Sum up what the clock counted; ``None`` where the world waited."""
    counted = [call.clock_s for call in calls if call.clock_s is not None]
    if not counted:
        return None
    steps = sum(episode.env_steps for episode in episodes)
    return ClockSummary(seconds=_times(counted), steps_share=sum(episode.thinking_steps for episode in episodes) / max(1, steps))


def _early(calls: Sequence[PlannerCall]) -> EarlySummary | None:
    """Sum up what the agent waited for until it could act; ``None`` where it waited for whole plans."""
    timed = [call for call in calls if call.wait_s is not None]
    if not timed:
        return None
    begun = [call for call in timed if call.early is not None]
    return EarlySummary(
        wait_s=_times(call.wait_s for call in timed if call.wait_s is not None and call.parse_error is None),
        rest_s=_times(call.wait_rest_s for call in begun),
        early_share=len(begun) / len(timed),
        taken_back=sum(call.plan is None or call.plan[:1] != (call.early,) for call in begun),
    )


def _by_env(episodes: Sequence[EpisodeRecord]) -> dict[str, EnvSummary]:
    successes: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        successes[episode.env_id].append(episode.success)
    return {env: EnvSummary(episodes=len(ends), success_rate=sum(ends) / len(ends)) for env, ends in sorted(successes.items())}


def _progress(episode: EpisodeRecord) -> float:
    """Return the share of the subgoals that were done; in an environment without subgoals 1 for success, else 0."""
    return episode.subgoals_done / episode.subgoals_total if episode.subgoals_total else float(episode.success)


def _tokens(values: Iterable[int]) -> TokenSpread:
    counts = list(values)
    return TokenSpread(p50=metrics.quantile(counts, 0.5), p95=metrics.quantile(counts, 0.95), max=max(counts, default=None))


def _times(values: Iterable[float]) -> TimeSpread:
    seconds = list(values)
    return TimeSpread(p50=metrics.quantile(seconds, 0.5), p95=metrics.quantile(seconds, 0.95))


def _bytes(values: Iterable[int]) -> ByteSpread:
    sizes = list(values)
    return ByteSpread(p50=metrics.quantile(sizes, 0.5), max=max(sizes, default=None))


def _reused_share(counts: Sequence[tuple[int, int]]) -> float | None:
    """Return the median share of tokens reused, from pairs (reused, all tokens of the prompt); ``None`` where none ever were."""
    if not any(reused for reused, _ in counts):
        return None
    return metrics.quantile([reused / tokens for reused, tokens in counts if tokens], 0.5)


def _replays(rows: Sequence[ReplayRow]) -> dict[str, ReplaySummary]:
    measured: dict[str, list[Measured]] = defaultdict(list)
    for row in rows:
        for backend, one in row.measured.items():
            measured[backend].append(one)
    return {
        backend: ReplaySummary(
            prompts=len(ours),
            reused_share_p50=_reused_share([(one.reused_tokens, one.prompt_tokens) for one in ours]),
            ttft_s=_times(one.ttft_s for one in ours if one.ttft_s),
            total_s=_times(one.total_s for one in ours if one.total_s),
            ttft_growth_s=ttft_growth(ours),
            forward_passes_p50=metrics.quantile([one.forward_passes for one in ours if one.forward_passes], 0.5),
            observe_s_p50=metrics.quantile([one.observe_s for one in ours if one.observe_s], 0.5),
        )
        for backend, ours in measured.items()
    }


def ttft_growth(measured: Sequence[Measured]) -> float | None:
    """Return the seconds by which TTFT grows with 1,000 more prompt tokens; ``None`` for prompts of one length."""
    return metrics.slope([(one.prompt_tokens / 1000, one.ttft_s) for one in measured if one.ttft_s])


def _paired(
    backend: str,
    reference: str,
    played: Mapping[str, BackendRecords],
    spls: Mapping[str, Mapping[Case, float]],
    rows: Sequence[ReplayRow],
) -> PairedSummary | None:
    """Compare ``backend`` with ``reference``; ``None`` while they have no case in common."""
    ours, theirs = played[backend].episodes, played[reference].episodes
    cases = [case for case in ours if case in theirs]
    if not cases:
        return None
    success = [float(ours[c].success) - float(theirs[c].success) for c in cases]
    efficiency = [spls[backend][c] - spls[reference][c] for c in cases if c in spls[backend] and c in spls[reference]]
    speed = _Speed.of(rows, backend, reference)
    return PairedSummary(
        episodes=len(cases),
        success_diff=sum(success) / len(success),
        success_diff_ci95=metrics.bootstrap_interval(success),
        spl_diff=metrics.mean(efficiency),
        spl_diff_ci95=metrics.bootstrap_interval(efficiency) if efficiency else None,
        prompts=len(speed.ttft),
        ttft_speedup_p50=metrics.quantile(speed.ttft, 0.5),
        replan_speedup_p50=metrics.quantile(speed.replan, 0.5),
        ceiling_p50=metrics.quantile(speed.ceiling, 0.5),
        of_ceiling_p50=metrics.quantile(speed.of_ceiling, 0.5),
    )


@dataclass(frozen=True)
class _Speed:
    """Ratios per prompt, reference / backend. Ceilings are divided by the reference's, which is 1 if it drops nothing."""

    ttft: list[float]
    replan: list[float]
    ceiling: list[float]
    of_ceiling: list[float]

    @classmethod
    def of(cls, rows: Sequence[ReplayRow], backend: str, reference: str) -> "_Speed":
        both = [(r.measured[backend], r.measured[reference]) for r in rows if {backend, reference} <= set(r.measured)]
        pairs = [pair for pair in both if all(one.ttft_s and one.total_s for one in pair)]  # a user's backend may have no times
        ttft = [theirs.ttft_s / ours.ttft_s for ours, theirs in pairs]
        ceilings = [ours.ceiling / theirs.ceiling if ours.ceiling and theirs.ceiling else None for ours, theirs in pairs]
        return cls(
            ttft=ttft,
            replan=[theirs.total_s / ours.total_s for ours, theirs in pairs],
            ceiling=[ceiling for ceiling in ceilings if ceiling is not None],
            of_ceiling=[gain / ceiling for gain, ceiling in zip(ttft, ceilings, strict=True) if ceiling is not None],
        )
