"""One comparison at several clock rates: the run directory of each, and the content of ``clock.json``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agents.clock import Clock
from benchmarks.comparison.metrics import Interval
from benchmarks.comparison.run import Comparison
from benchmarks.comparison.schema import BackendSummary, Summary
from benchmarks.runs.provenance import RUN_CONFIG_FILE

CLOCK_FILE = "clock.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClockPoint(_Part):
    """One backend at one rate."""

    steps_per_second: float
    """Environment steps per second of thinking; 0 where the world waits."""
    backend: str
    """Spec string of the backend."""
    episodes: int
    """Finished episodes."""
    success_rate: float
    """Share of them that succeeded, 0 to 1."""
    success_ci95: Interval
    """95% Wilson interval of the success rate."""
    spl: float | None
    """Mean SPL, 0 to 1, in which steps of thinking count as steps; ``None`` where no expert played."""
    spl_ci95: Interval | None
    """95% bootstrap interval of it, over episodes."""
    thinking_share: float
    """Share of all environment steps that passed while the planner thought, 0 to 1."""
    thinking_s_p50: float | None
    """Median seconds of thinking per replan; ``None`` where the world waits."""
    replans_mean: float
    """Mean number of replans per episode."""

    @classmethod
    def of(cls, steps_per_second: float, backend: str, summary: BackendSummary) -> "ClockPoint":
        """Take the figures of a backend's summary at one rate."""
        clock = summary.clock
        return cls(
            steps_per_second=steps_per_second,
            backend=backend,
            episodes=summary.episodes,
            success_rate=summary.success_rate,
            success_ci95=summary.success_ci95,
            spl=summary.spl,
            spl_ci95=summary.spl_ci95,
            thinking_share=0.0 if clock is None else clock.steps_share,
            thinking_s_p50=None if clock is None else clock.seconds.p50,
            replans_mean=summary.replans_mean,
        )


class ClockReport(_Part):
    """The content of ``clock.json``."""

    suite: str
    """Name of the suite."""
    seed: int
    """Number of the run, which selects its block of seeds."""
    source: str
    """What counts the seconds of thinking."""
    complete: bool
    """Whether all episodes at all rates are finished."""
    points: list[ClockPoint]
    """By rate in the order asked for, then by backend, the expert first."""

    @property
    def backends(self) -> list[str]:
        """The backends that have points."""
        return list(dict.fromkeys(point.backend for point in self.points))


def clock_report(summaries: Mapping[float, Summary], rates: Sequence[float], source: str) -> ClockReport:
    """Collect the figures of a sweep.

    Parameters
    ----------
    summaries : mapping of float to Summary
        What has been played so far, by rate; at least one.
    rates : sequence of float
        All rates that are to be played.
    source : str
        What counts the seconds of thinking.
    """
    first = next(iter(summaries.values()))
    return ClockReport(
        suite=first.suite,
        seed=first.seed,
        source=source,
        complete=all(rate in summaries and summaries[rate].complete for rate in rates),
        points=[
            ClockPoint.of(rate, name, backend)
            for rate in rates
            if rate in summaries
            for name, backend in summaries[rate].backends.items()
        ],
    )


def at_rates(comparison: Comparison, clocks: Mapping[float, Clock | None]) -> dict[float, Comparison]:
    """Make one comparison per rate, in run directories ``clock-RATE`` below the one of ``comparison``.

    Parameters
    ----------
    comparison : Comparison
        What to play at each rate.
    clocks : mapping of float to Clock or None
        The clock of each rate; ``None`` for rate 0.

    Raises
    ------
    ValueError
        Where the directory of ``comparison`` holds a run itself.
    """
    if (comparison.out / RUN_CONFIG_FILE).exists():
        raise ValueError(f"{comparison.out} holds a run with one clock or none: choose another --out for several rates")
    return {rate: with_clock(comparison, clock, folder(comparison.out, rate)) for rate, clock in clocks.items()}


def with_clock(comparison: Comparison, clock: Clock | None, out: Path) -> Comparison:
    """Return the comparison with this clock, in the run directory ``out``."""
    loop = comparison.loop
    return replace(comparison, loop=replace(loop, config=replace(loop.config, clock=clock)), out=out)


def folder(out: Path, rate: float) -> Path:
    """Return the run directory of a rate: ``clock-2``, ``clock-0.5``."""
    return out / f"clock-{rate_text(rate)}"


def rate_text(rate: float) -> str:
    """Write a rate without a needless fraction."""
    return str(int(rate)) if rate == int(rate) else repr(rate)
