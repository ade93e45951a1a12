"""The work of ``erecap capacity``: price the sessions, simulate the server, write the report, print it.

This module imports torch, so ``capacity`` imports it inside its function.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import typer
from transformers import PretrainedConfig

from benchmarks.comparison.capacity import (
    BackendCapacity,
    CapacityReport,
    find_capacity,
    is_unpruned,
    recorded_episodes,
    with_common_curve,
)
from benchmarks.output.console import plain_console, result_console
from benchmarks.output.lock import OutputLock
from benchmarks.reports.capacity import capacity_table, write_capacity
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.progress import StageProgress
from benchmarks.runs.records import RunRecords
from erecap.calibration.bundled_costs import find_cost
from erecap.calibration.cost_model import CostModel
from erecap.calibration.paper_model import ModelWork
from erecap.capacity.prices import Held, SessionPrices, by_schedule, recorded, steady, unpruned
from erecap.capacity.replans import Replan, SteadyWork
from erecap.capacity.search import Load
from erecap.capacity.server import Server
from erecap.models.device import DTYPES
from erecap.models.loading import bundled_planner_dir, read_config
from erecap.profiling.shapes import SHAPES, shape_config
from erecap.profiling.units import parse_bytes
from erecap.schedule import PruneSchedule

BASELINE = "baseline-session"
_HEADLINE = {"backend", "kv_bytes", "agents_by_memory", "agents", "bound_by"}
"""Figures of each backend in the last line of stdout."""


@dataclass(frozen=True)
class Case:
    """One backend to model.

    Attributes
    ----------
    name
        Spec string.
    episodes
        The agents' work.
    held
        Counts the tokens that each layer holds.
    """

    name: str
    episodes: Sequence[Sequence[Replan]]
    held: Held


class Work(Protocol):
    """What the agents do."""

    @property
    def stays(self) -> bool:
        """Whether an agent stays at the last replan of its episode."""
        ...

    def describe(self) -> str:
        """Say in words what the agents do."""
        ...

    def cases(self, layers: int, schedules: dict[str, PruneSchedule]) -> list[Case]:
        """List the backends to model, for a model of ``layers`` layers; ``schedules`` are asked for, by spec string."""
        ...


@dataclass(frozen=True)
class Steady:
    """Agents that stay at one length of context; the fields are the options of ``erecap capacity``."""

    context: int
    new: int
    answer: int
    passes: int
    every: float
    protected: int

    stays = True

    def describe(self) -> str:
        """See ``Work``."""
        return (
            f"Agents at {self.context:,} tokens of context, {self.new} of them new at each replan, answers of {self.answer} tokens "
            f"in {self.passes} forward passes, {self.every:g} s of acting between replans"
        )

    def cases(self, layers: int, schedules: dict[str, PruneSchedule]) -> list[Case]:
        """See ``Work``."""
        work = SteadyWork(self.context, self.new, self.new + self.protected, self.answer, self.passes, self.every)
        episodes = [work.episode()]
        pruned = [Case(name, episodes, by_schedule(schedule, layers)) for name, schedule in schedules.items()]
        return [Case(BASELINE, episodes, unpruned(layers)), *pruned]


@dataclass(frozen=True)
class Recorded:
    """Agents that do what was recorded; the fields are the options of ``erecap capacity``."""

    run: Path
    skill_s: float
    protected: int

    stays = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.skill_s) and self.skill_s >= 0) or self.protected < 0:
            raise ValueError(f"--skill-seconds {self.skill_s}, --protected {self.protected}: give finite numbers from 0 on")

    def describe(self) -> str:
        """See ``Work``."""
        return (
            f"Agents do what is recorded in {self.run}, with the token counts of the planner that played there and "
            f"{self.skill_s:g} s for each line of a plan; every backend is modelled as one that keeps sessions"
        )

    def cases(self, layers: int, schedules: dict[str, PruneSchedule]) -> list[Case]:
        """See ``Work``. The first unpruned backend comes first; schedules are tried on its episodes."""
        path = self.run / STEPS_FILE
        if not path.is_file():
            raise ValueError(
                f"{str(self.run)!r} holds no {STEPS_FILE}: name a run directory that `erecap run` or `compare` has written"
            )
        played = {
            name: recorded_episodes(records, layers, self.skill_s, self.protected)
            for name, records in RunRecords.read(path).backends.items()
        }
        known = {name: episodes for name, episodes in played.items() if episodes}
        if not known:
            raise ValueError(
                f"{path} holds no finished episode of a backend that tells its tokens by layer: record one with "
                "`erecap run --backend baseline-session`"
            )
        first = next((name for name, episodes in known.items() if is_unpruned(episodes)), next(iter(known)))
        names = [first, *(name for name in known if name != first)]
        pruned = [
            Case(f"{name} (by schedule)", known[first], by_schedule(schedule, layers)) for name, schedule in schedules.items()
        ]
        return [*(Case(name, known[name], recorded) for name in names), *pruned]


@dataclass(frozen=True)
class ServerOptions:
    """The options of ``erecap capacity`` that describe the server; ``capacity`` says what they mean."""

    cost: str
    shape: str | None
    model: str | None
    kv_budget: str
    p95: float
    keep: str
    stages: str | None
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.p95) and self.p95 > 0):
            raise ValueError(f"--p95 {self.p95} must be a positive finite number of seconds, such as 1.0")
        if self.batch < 1:
            raise ValueError(f"--batch {self.batch} must be at least 1: give the most prompts that are answered together")

    @cached_property
    def prices(self) -> CostModel:
        """The cost model."""
        return find_cost(self.cost)

    @cached_property
    def budget_bytes(self) -> int:
        """Bytes for keys and values."""
        try:
            return parse_bytes(self.kv_budget)
        except ValueError as error:
            raise ValueError(f"--kv-budget {error}; 40GB is usual for one GPU") from error

    @property
    def layers(self) -> int:
        """Layers of the model that is priced."""
        return self.prices.setting.model.num_layers

    @cached_property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of a token in one layer."""
        config, priced = self._config(), self.prices.setting.model
        found = (config.num_hidden_layers, config.hidden_size)
        if found != (priced.num_layers, priced.hidden_size):
            raise ValueError(
                f"the cost model is of {priced.describe()}, the model named has {found[0]} layers of width {found[1]}: name the "
                "same model with --shape or --model"
            )
        if self.prices.setting.dtype not in DTYPES:
            raise ValueError(f"cost model {self.cost!r} is of dtype {self.prices.setting.dtype!r}: use one of {', '.join(DTYPES)}")
        return ModelWork.of(config, DTYPES[self.prices.setting.dtype].itemsize).kv_bytes

    def _config(self) -> PretrainedConfig:
        name = self.prices.setting.model.name
        if self.shape is not None and self.model is not None:
            raise ValueError("--shape and --model both name the model: give one of them")
        if self.model is not None:
            return read_config(self.model)
        if self.shape is not None or name in SHAPES:
            return shape_config(self.shape or name)
        if name == bundled_planner_dir().name:
            return read_config()
        raise ValueError(
            f"the cost model is of {name!r}, whose keys and values have no known size: name it with --shape or --model"
        )

    def schedules(self) -> dict[str, PruneSchedule]:
        """Read keep ratios and stages; schedules by spec string of their backend."""
        parts = [part.strip() for part in self.keep.split(",") if part.strip()]
        if self.stages is not None and not parts:
            raise ValueError(f"--stages {self.stages} without a keep ratio: give --keep 0.7 too")
        at = "" if self.stages is None else f"&stages={self.stages}"
        return {f"erecap-session?keep={keep:g}{at}": self._schedule(keep) for keep in map(_ratio, parts)}

    def _schedule(self, keep: float) -> PruneSchedule:
        return PruneSchedule.of_stages(self.stages, self.layers, keep)


def _ratio(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--keep {text!r} must be numbers separated by commas, such as 0.7,0.5") from error


def model_capacity(options: ServerOptions, work: Work, out: Path | None) -> None:
    """Model all backends, write the results into ``out`` where there is one, and print them."""
    loads = {case.name: _load(options, work, case) for case in work.cases(options.layers, options.schedules())}
    files = list[Path]()
    lock: AbstractContextManager[object] = nullcontext() if out is None else OutputLock(out)
    with lock, StageProgress(plain_console(stderr=True)) as progress:
        progress.begin("capacity", len(loads) + 1)
        for report in _reports(options, work, loads, progress):
            files = files if out is None else write_capacity(report, out)
    result_console().print(capacity_table(report))
    headline = [one.model_dump(include=_HEADLINE) for one in report.backends]
    typer.echo(json.dumps({"modelled": True, "files": [str(file) for file in files], "backends": headline}))


def _reports(options: ServerOptions, work: Work, loads: dict[str, Load], progress: StageProgress) -> Iterator[CapacityReport]:
    """Model one backend after the other; yield the report so far after each, and at the end with curves of the same points."""
    found: list[BackendCapacity] = []
    for name, load in loads.items():
        found.append(find_capacity(name, load, options.p95))
        yield _report(options, work, found, complete=False)
        progress.advance(1, f"{name}: {found[-1].agents} agents")
    yield _report(options, work, with_common_curve(found, loads), complete=True)
    progress.advance()


def _load(options: ServerOptions, work: Work, case: Case) -> Load:
    prices = SessionPrices(options.prices, options.token_bytes, case.held)
    priced = [prices.episode(episode) for episode in case.episodes]
    server = Server.of(options.prices, options.budget_bytes, options.batch)
    return Load(server, [steady(one) for one in priced] if work.stays else priced, options.seed)


def _report(options: ServerOptions, work: Work, found: list[BackendCapacity], complete: bool) -> CapacityReport:
    return CapacityReport(
        complete=complete,
        cost=options.prices.setting.describe(),
        basis=options.prices.basis,
        work=work.describe(),
        kv_budget_bytes=options.budget_bytes,
        p95_limit_s=options.p95,
        most_rows=options.batch,
        seed=options.seed,
        backends=found,
    )
