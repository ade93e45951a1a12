"""The clock on the command line: the options ``--clock`` and ``--clock-source`` of ``erecap run`` and ``compare``, and sweeps."""

import json
import math
from collections.abc import Mapping
from typing import Annotated

import typer

from agents.clock import Clock
from benchmarks.commands.results import code_of, make_all
from benchmarks.comparison.clock_sweep import ClockReport, at_rates, clock_report, rate_text, with_clock
from benchmarks.comparison.run import Comparison, Results
from benchmarks.output.console import result_console
from benchmarks.output.lock import OutputLock

_PANEL = "Whether the world waits while the planner thinks"
_HEADLINE = {"steps_per_second", "backend", "success_rate", "spl", "thinking_share"}
"""Figures of each point in the last line of stdout."""

Rate = Annotated[
    str | None,
    typer.Option(
        "--clock", help="Environment steps per second of thinking; 0 by default: the world waits.", rich_help_panel=_PANEL
    ),
]
Rates = Annotated[
    str | None,
    typer.Option(
        "--clock",
        help="Environment steps per second of thinking, 0 for a world that waits (the default). Several, separated by commas, are "
        "played one after the other and compared.",
        rich_help_panel=_PANEL,
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--clock-source",
        help="Seconds of thinking: `model` (default) for the cost model of the bundled planner on a CPU, `model:FILE` for a file "
        "of `erecap calibrate --cost`, `model:qwen2-7b-h200` for a predicted 7B planner on one GPU, `measured` for the real time.",
        rich_help_panel=_PANEL,
    ),
]


def parse_rates(text: str) -> tuple[float, ...]:
    """Read clock rates.

    Parameters
    ----------
    text : str
        Numbers separated by commas.

    Returns
    -------
    tuple of float
        The rates, in environment steps per second, in the order given.

    Raises
    ------
    ValueError
        For text that is not a number, a number that is negative or not finite, and one that is given twice.
    """
    remedy = "give environment steps per second of thinking, separated by commas, such as 1,2,5, or 0 for a world that waits"
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--clock {text!r} must be numbers: {remedy}") from error
    bad = [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]
    if bad:
        raise ValueError(f"--clock {text!r} must be finite and not negative, {bad[0]} is not: {remedy}")
    if len(set(rates)) < len(rates):
        raise ValueError(f"--clock {text!r} gives a rate twice: give each once")
    return rates


def make_clocks(rates: str | None, source: str | None) -> dict[float, Clock | None]:
    """Make the clock of each rate.

    Parameters
    ----------
    rates : str or None
        The option ``--clock``; ``None`` for a world that waits.
    source : str or None
        The option ``--clock-source``.

    Returns
    -------
    dict of float to Clock or None
        At least one clock by its rate; ``None`` for rate 0.

    Raises
    ------
    ValueError
        For rates and sources that cannot be read, and for a source without a clock.
    """
    found = parse_rates(rates) if rates is not None else (0.0,)
    if not any(found):
        if source is not None:
            raise ValueError(f"--clock-source {source!r} means nothing in a world that waits: give --clock 2 too, or leave it out")
        return {0.0: None}
    from benchmarks.runs.clock_sources import MODEL, make_clock  # imports torch

    return {rate: make_clock(rate, source or MODEL) for rate in found}


def check_early(clocks: Mapping[float, Clock | None], start_early: bool) -> None:
    """Refuse a clock where plans are begun early. Raises ``ValueError``."""
    if start_early and any(clocks.values()):
        rates = ",".join(map(rate_text, clocks))
        raise ValueError(
            f"--start-early with --clock {rates}: a clock counts the seconds of whole plans, a first line has no price of its own; "
            "leave out one of the two"
        )


def suffix(clocks: Mapping[float, Clock | None]) -> str:
    """Return the end of a default run directory's name: ``-clock-2``, ``-clock`` for several rates, nothing without a clock."""
    if len(clocks) > 1:
        return "-clock"
    return "".join(f"-clock-{rate_text(rate)}" for rate in clocks if rate)


def with_only_clock(comparison: Comparison, clocks: Mapping[float, Clock | None]) -> Comparison:
    """Return the comparison with the only clock in ``clocks``."""
    (clock,) = clocks.values()
    return with_clock(comparison, clock, comparison.out)


def run_sweep(comparison: Comparison, clocks: Mapping[float, Clock | None]) -> None:
    """Play a comparison at several rates, write its report, and print the table and a JSON line.

    ``clock.json``, ``clock.md`` and ``clock.png`` are written anew after each rate.

    Parameters
    ----------
    comparison : Comparison
        What to play at each rate. Each gets a run directory below this one's.
    clocks : mapping of float to Clock or None
        The clocks by rate; at least one is a clock.

    Raises
    ------
    ValueError
        Where a directory holds another run.
    typer.Exit
        If the results are incomplete, as in ``print_results``.
    """
    from benchmarks.reports.clock import clock_markdown, write_clock

    source = next(str(clock.seconds) for clock in clocks.values() if clock is not None)
    done: dict[float, Results] = {}

    def report() -> ClockReport:
        return clock_report({rate: results.summary for rate, results in done.items()}, list(clocks), source)

    def add(results: Results) -> None:
        done[by_folder[results.out]] = results
        lock.check()
        write_clock(report(), comparison.out)

    with OutputLock(comparison.out) as lock:
        planned = at_rates(comparison, clocks)
        by_folder = {one.out: rate for rate, one in planned.items()}
        played, stopped = make_all(list(planned.values()), add)
    made = report()
    result_console().print(clock_markdown(made), markup=False, soft_wrap=True)
    typer.echo(json.dumps(_headline(comparison, made)))
    if not made.complete:
        raise typer.Exit(code_of(played[-1].stopped or stopped))


def _headline(comparison: Comparison, report: ClockReport) -> dict[str, object]:
    """Return the paths and the main figures."""
    return {
        "complete": report.complete,
        "files": [str(comparison.out / name) for name in ("clock.json", "clock.md", "clock.png")],
        "points": [point.model_dump(include=_HEADLINE) for point in report.points],
    }
