"""The work of ``erecap bench-quality``: measure, write the table, print it.

This module imports torch, so ``bench_quality`` imports it inside its function.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import structlog
import typer

from benchmarks.commands.model_options import load_with_pruner
from benchmarks.commands.results import code_of
from benchmarks.output.console import plain_console, result_console
from benchmarks.output.files import write_atomically
from benchmarks.output.lock import OutputLock
from benchmarks.recipes.quality.cases import TextChoice, choose_texts
from benchmarks.recipes.quality.result import QualityResult
from benchmarks.recipes.quality.study import QualityStudy
from benchmarks.reports.quality import TABLE_FILE, caption, markdown, rich_table
from benchmarks.runs.progress import StageProgress
from erecap.models.architecture import check_config
from erecap.models.loading import LoadedModel, bundled_pruner_dir, read_config
from erecap.models.pruner import weights_checksum
from erecap.schedule import PruneSchedule
from erecap.schedule.stages import format_stages, parse_stages, seed_layers
from erecap.selectors import SELECTORS, USE_PRUNER
from erecap.training.texts import CONTINUATION

RESULT_FILE = "quality.json"
FREE = ("attention", "random", "recency")
"""The default selectors besides ``learned``."""
SHARES = "0.7,0.5"
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class QualityOptions:
    """The options of ``erecap bench-quality``; ``bench_quality`` says what they mean."""

    choice: TextChoice
    model: str | None
    pruner: Path | None
    selector: str | None
    share: str | None
    keep: str | None
    stages: str | None
    dtype: str | None
    device: str | None

    @property
    def selectors(self) -> tuple[str, ...]:
        """The selectors to measure. Raises ``ValueError`` for an unknown one, and one without the pruner that it needs."""
        default = ("learned", *FREE) if self.model is None or self.pruner is not None else FREE
        names = default if self.selector is None else tuple(name.strip() for name in self.selector.split(","))
        unknown = [name for name in names if name not in SELECTORS]
        if unknown or len(set(names)) < len(names):
            raise ValueError(f"selector={self.selector!r} must name different selectors of {', '.join(SELECTORS)}")
        if self.model is not None and self.pruner is None and not set(names).isdisjoint(USE_PRUNER):
            raise ValueError(
                f"selector={self.selector!r} scores with a pruner, and there is none for this model: give --pruner DIR"
            )
        return names

    def schedules(self, num_layers: int, trained: tuple[int, ...] | None) -> tuple[PruneSchedule, ...]:
        """Make the schedules; ``trained`` are the stages of the pruner. Raises ``ValueError`` for shares that are none."""
        stages = self.stages
        if stages is None and trained is not None and not set(seed_layers(num_layers)) <= set(trained):
            stages = format_stages(trained)
        if stages is not None and trained is not None and not set(parse_stages(stages)) <= set(trained):
            raise ValueError(f"stages={stages!r} are not all among the pruner's, {format_stages(trained)}: choose from these")
        if self.keep is not None:
            return tuple(PruneSchedule.of_stages(stages, num_layers, keep) for keep in _numbers("keep", self.keep))
        if self.share is None:
            return _reachable(stages, num_layers)
        return tuple(PruneSchedule.of_share(stages, num_layers, share) for share in _numbers("share", self.share))


def run_quality(options: QualityOptions, out: Path) -> None:
    """Measure, write the results into ``out`` and print them. After Ctrl-C, do so with what there is.

    Raises
    ------
    typer.Exit
        Where the measurement was interrupted.
    """
    selectors = options.selectors
    with OutputLock(out), StageProgress(plain_console(stderr=True)) as progress:
        progress.begin("bench-quality", 1)
        progress.advance(0, "loading the model")
        study = _study(options, selectors)
        stopped = _measure(study, out / RESULT_FILE, progress)
        result = QualityResult.load(out / RESULT_FILE, study.setting())
    complete = stopped is None
    result.save(out / RESULT_FILE, complete=complete)
    _report(result, out, complete)
    if stopped is not None:
        log.warning("the measurement is unfinished; the same command continues it", out=str(out))
        raise typer.Exit(code_of(stopped))


def _study(options: QualityOptions, selectors: tuple[str, ...]) -> QualityStudy:
    check_config(read_config(options.model))
    needed = next((name for name in selectors if name in USE_PRUNER), selectors[0])
    directory = None if options.pruner is None else str(options.pruner)
    loaded, pruner = load_with_pruner(needed, options.model, directory, options.dtype, options.device)
    schedules = options.schedules(_depth(loaded), None if pruner is None else pruner.stages)
    weights = "" if pruner is None else weights_checksum(directory or bundled_pruner_dir())
    files = tuple(path.name for path in options.choice.paths)
    cases = choose_texts(options.choice, loaded)
    return QualityStudy(loaded, pruner, weights, cases, files, selectors, schedules, options.choice.max_new_tokens)


def _measure(study: QualityStudy, path: Path, progress: StageProgress) -> KeyboardInterrupt | None:
    """Run the study; return what interrupted it."""
    try:
        study.run(path, progress.expect, progress.beat)
    except KeyboardInterrupt as stopped:
        return stopped
    return None


def _report(result: QualityResult, out: Path, complete: bool) -> None:
    words, rows = caption(result.setting, CONTINUATION), [row.figures() for row in result.rows]
    write_atomically(out / TABLE_FILE, markdown(rows, words))
    result_console().print(rich_table(rows, words))
    paths = {"quality": str(out / RESULT_FILE), "table": str(out / TABLE_FILE)}
    typer.echo(json.dumps({**paths, "complete": complete, "rows": rows}))


def _reachable(stages: str | None, num_layers: int) -> tuple[PruneSchedule, ...]:
    """Make the schedules of the default shares that a model reaches: in a small one the layers before a stage may be too many."""
    PruneSchedule.of_stages(stages, num_layers, 1.0)  # stages that do not fit are an error of their own
    made = []
    for share in _numbers("share", SHARES):
        try:
            made.append(PruneSchedule.of_share(stages, num_layers, share))
        except ValueError as error:
            log.warning("a default share is left out", reason=str(error))
    if not made:
        raise ValueError(f"none of the shares {SHARES} can be reached: name others with --share, or begin earlier (--stages 0-5)")
    return tuple(made)


def _depth(loaded: LoadedModel) -> int:
    return int(loaded.model.config.num_hidden_layers)


def _numbers(name: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{name}={text!r} must be numbers separated by commas: such as 0.7,0.5") from error
    if not all(0.0 < number < 1.0 for number in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"{name}={text!r} must be different numbers between 0 and 1: such as 0.7,0.5")
    return numbers
