"""The work of ``erecap stages``: measure, write the report, print it.

This module imports torch, so ``stages`` imports it inside its function.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import structlog
import typer

from benchmarks.commands.model_options import load_with_pruner
from benchmarks.commands.results import code_of
from benchmarks.output.console import plain_console, result_console
from benchmarks.output.files import write_atomically
from benchmarks.output.lock import OutputLock
from benchmarks.recipes.first_stage.cases import CaseChoice, choose_cases
from benchmarks.recipes.first_stage.result import StudyResult, spec_of, without_details
from benchmarks.recipes.first_stage.study import FLOOR, Plan, Study
from benchmarks.reports.first_stage import (
    PLOT_FILE,
    TABLE_FILE,
    caption,
    floor_lines,
    markdown,
    rich_table,
    unreachable_lines,
    write_plot,
)
from benchmarks.runs.progress import StageProgress
from erecap.first_stage.points import explain, recommend
from erecap.models.architecture import check_config
from erecap.models.loading import bundled_pruner_dir, read_config
from erecap.models.pruner import weights_checksum
from erecap.schedule import parse_stages
from erecap.selectors import SELECTORS

RESULT_FILE = "stages.json"
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StudyOptions:
    """The options of ``erecap stages``; ``stages`` says what they mean."""

    data: tuple[Path, ...]
    model: str | None
    selector: str | None
    pruner: str | None
    share: str
    first: str | None
    tolerance: float
    floor: bool
    num_prompts: int
    min_length: int
    max_length: int
    max_new_tokens: int
    seed: int
    dtype: str | None
    device: str | None

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance={self.tolerance} must be 0 or more: give nats per token, such as 0.02")
        if self.scorer not in SELECTORS:
            raise ValueError(f"selector {self.scorer!r} is not known: the selectors are {', '.join(SELECTORS)}")

    @property
    def scorer(self) -> str:
        """Name of the selector: ``learned`` where there is a pruner, else ``attention``, unless one was named."""
        return self.selector or ("learned" if self.model is None or self.pruner is not None else "attention")

    def plan(self) -> Plan:
        """Read what to measure. Raise ``ValueError`` for text that is no number."""
        try:
            shares = tuple(float(part) for part in self.share.split(","))
        except ValueError as error:
            raise ValueError(f"share={self.share!r} must be numbers separated by commas: such as 0.6,0.4") from error
        first = None if self.first is None else parse_stages(self.first)
        return Plan(self.scorer, shares, first, self.floor, self.max_new_tokens)


def run_study(options: StudyOptions, out: Path) -> None:
    """Measure, write the results into ``out`` and print them. After Ctrl-C, do so with what there is.

    Raises
    ------
    typer.Exit
        Where the measurement was interrupted.
    """
    plan = options.plan()
    choice = CaseChoice(options.data, options.num_prompts, options.min_length, options.max_length, options.seed)
    check_config(read_config(options.model))
    loaded, pruner = load_with_pruner(plan.selector, options.model, options.pruner, options.dtype, options.device)
    weights = None if pruner is None else weights_checksum(options.pruner or bundled_pruner_dir())
    study = Study(loaded, pruner, choose_cases(choice, loaded, plan.max_new_tokens), plan, weights)
    study.targets()  # what cannot be measured is refused before anything is
    with OutputLock(out):
        stopped = _measure(study, out)
        result = StudyResult.load(out / RESULT_FILE, study.setting())
        result.unreachable = study.targets()[1]
        _report(options, result, out, stopped is None)
    if stopped is not None:
        log.warning("the measurement is unfinished; the same command continues it", out=str(out))
        raise typer.Exit(code_of(stopped))


def _measure(study: Study, out: Path) -> KeyboardInterrupt | None:
    """Run the study; return what interrupted it."""
    with StageProgress(plain_console(stderr=True)) as progress:
        try:
            study.run(out / RESULT_FILE, lambda note: progress.advance(1, note), lambda cases: progress.begin("stages", cases))
        except KeyboardInterrupt as stopped:
            return stopped
    return None


def _report(options: StudyOptions, result: StudyResult, out: Path, complete: bool) -> None:
    own, floor = result.of(options.scorer), [] if options.scorer == FLOOR else result.of(FLOOR)
    chosen, reason = recommend(own, options.tolerance), explain(own, floor, options.tolerance)
    spec = None if chosen is None else spec_of(chosen, options.model, options.pruner, options.dtype)
    unfinished = [] if complete else ["Unfinished: not every schedule has been measured; the same command goes on."]
    remarks = [*unreachable_lines(result.unreachable), *floor_lines(own, floor), *unfinished, _advice(spec, reason)]
    loss = sum(one.loss for one in result.unpruned) / max(1, len(result.unpruned))
    words = caption(result.setting, loss, options.tolerance)
    advice = {
        "spec": spec,
        "reason": reason,
        "tolerance": options.tolerance,
        "selector": options.scorer,
        "point": None if chosen is None else without_details(chosen),
    }
    result.save(out / RESULT_FILE, complete=complete, recommendation=advice)
    write_atomically(out / TABLE_FILE, markdown(result.points, options.tolerance, words, remarks))
    if result.points:
        write_plot(result.points, options.tolerance, out / PLOT_FILE)
    console = result_console()
    console.print(rich_table(result.points, options.tolerance, words))
    for remark in remarks:
        console.print(remark, soft_wrap=True)
    files = {"stages": RESULT_FILE, "table": TABLE_FILE, "plot": PLOT_FILE}
    paths = {name: str(out / file) for name, file in files.items() if (out / file).exists()}
    typer.echo(json.dumps({**paths, "complete": complete, "points": len(result.points), "recommended": spec, "reason": reason}))


def _advice(spec: str | None, reason: str) -> str:
    return f"Recommended: none. {reason}" if spec is None else f"Recommended: {spec}\n{reason}"
