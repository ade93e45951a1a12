"""A whole comparison in one run directory: closed loop, paired replay, summary. ``erecap run`` skips the replay."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from agents.clock import Clock
from agents.episode_log import EpisodeLog
from agents.job import EpisodeJob
from agents.loop import run_episode
from agents.pool import Pool
from agents.recorded_prompts import RecordedPrompt
from agents.runner import EpisodeFunction, MakeBackend
from benchmarks.backends.models import SESSIONS, AlikeFactory, check_alike, describe_models
from benchmarks.backends.registry import choose_reference, is_user_backend, runs_model
from benchmarks.comparison import replay as paired
from benchmarks.comparison.episode_replay import choose_episodes, replay_episodes
from benchmarks.comparison.replay import REPLAY_FILE, ReplayRow
from benchmarks.comparison.schema import Summary
from benchmarks.comparison.summary import summarize
from benchmarks.output.files import write_atomically
from benchmarks.output.lock import OutputLock
from benchmarks.runs.closed_loop import STEPS_FILE, ClosedLoop, OnEpisode, play
from benchmarks.runs.executors import Executor, LocalExecutor
from benchmarks.runs.progress import ComparisonProgress
from benchmarks.runs.provenance import RUN_CONFIG_FILE, describe_run, open_run, read_config
from benchmarks.runs.records import BackendRecords, RunRecords
from benchmarks.runs.suites import Case

SUMMARY_FILE = "summary.json"
TABLE_FILE = "table.md"
REPORT_FILES = (TABLE_FILE, "replan_latency.png", "prompt_tokens.png", "latency_by_length.png", "replan_reasons.png")
"""Files that ``benchmarks.reports`` writes into a run directory."""
_MAY_DIFFER = ("episodes", "backends", "executor", "workers", "replay_prompts")
"""Arguments that may change when a run is continued, because finished episodes stay valid. Old runs have ``workers``."""


@dataclass(frozen=True)
class Comparison:
    """The settings of a comparison.

    Attributes
    ----------
    command : str
        Subcommand of ``erecap`` that runs the comparison.
    loop : ClosedLoop
        The suite, backends and episodes to play.
    out : Path
        The run directory.
    executor : Executor
        Plays the episodes. The paired replay stays in this process, because it is timed.
    replay_prompts : int
        Prompts in the paired replay; 0 leaves the replay out. A replay of whole episodes has at least one of them.
    replay_tokens : int
        Tokens decoded per prompt in the paired replay, at least 2. A replay of whole episodes decodes as many as were recorded.
    sessions : tuple of str
        Spec strings of the backends that keep state between prompts, so that the replay plays whole episodes.
    """

    command: str
    loop: ClosedLoop
    out: Path
    executor: Executor = field(default_factory=LocalExecutor)
    replay_prompts: int = 60
    replay_tokens: int = 16
    sessions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.replay_prompts < 0:
            raise ValueError(f"replay_prompts={self.replay_prompts} must not be negative: 0 leaves the replay out")
        if self.replay_tokens < 2:
            raise ValueError(f"replay_tokens={self.replay_tokens} must be at least 2: the first belongs to prefill")

    @property
    def replayed(self) -> list[str]:
        """The backends in the replay: those that run a model in this process; empty for fewer than two."""
        models = self.loop.model_backends
        return models if len(models) > 1 and self.replay_prompts else []

    @property
    def by_episodes(self) -> bool:
        """Whether the replay plays whole episodes: one of its backends keeps state between prompts."""
        return not set(self.sessions).isdisjoint(self.replayed)

    def with_models(self, models: Mapping[str, Mapping[str, str]]) -> "Comparison":
        """Return the comparison with what all models' facts tell: which of the user's backends run one, and who keeps state."""
        loop = replace(self.loop, user_models=tuple(spec for spec in models if is_user_backend(spec)))
        return replace(self, loop=loop, sessions=tuple(spec for spec, facts in models.items() if SESSIONS in facts))

    def arguments(self) -> dict[str, Any]:
        """Return all settings that affect the result, for ``config.json``."""
        return {
            "suite": self.loop.suite.name,
            "backends": list(self.loop.backends),
            "episodes": self.loop.episodes,
            "seed": self.loop.seed,
            "training_seeds": self.loop.training_seeds,
            "executor": self.executor.settings(),
            "verbosity": self.loop.suite.verbosity,
            "horizon": self.loop.plan_horizon,
            "step_limit_factor": self.loop.suite.step_limit_factor,
            "agent": repr(self.loop.config),
            **clock_arguments(self.loop.config.clock),
            **({"start_early": True} if self.loop.config.start_early else {}),
            "replay_prompts": self.replay_prompts,
            "replay_tokens": self.replay_tokens,
        }


def clock_arguments(clock: Clock | None) -> dict[str, Any]:
    """Describe a clock for ``config.json``. Without one there is nothing to describe, as in runs that are older than the clock."""
    return {} if clock is None else {"clock": clock.steps_per_second, "clock_source": str(clock.seconds)}


@dataclass(frozen=True)
class Results:
    """The results of a comparison, for reports.

    Attributes
    ----------
    out : Path
        The run directory.
    summary : Summary
        All figures, as in ``summary.json``.
    played : dict of str to BackendRecords
        Records of the comparison's cases by spec string, the expert first.
    rows : list of ReplayRow
        Rows of the replayed prompts.
    missing : int
        Number of episodes that are not finished.
    lost : list of EpisodeJob
        Those of them whose workers died.
    stopped : KeyboardInterrupt or None
        What ended the comparison early: Ctrl-C, or a signal that asked it to end.
    """

    out: Path
    summary: Summary
    played: dict[str, BackendRecords]
    rows: list[ReplayRow]
    missing: int
    lost: list[EpisodeJob] = field(default_factory=list)
    stopped: KeyboardInterrupt | None = None


def run_comparison(
    comparison: Comparison,
    make_backend: MakeBackend,
    progress: ComparisonProgress,
    episode: EpisodeFunction = run_episode,
    make_here: MakeBackend | None = None,
    report: Callable[[Results], object] = lambda results: None,
) -> Results:
    """Play and replay what is missing in the run directory, and write its ``summary.json``.

    Ctrl-C ends the comparison early. The results then cover the finished part. The directory is locked from before the first file
    is written until after the last.

    Parameters
    ----------
    comparison : Comparison
        The comparison to run.
    make_backend : MakeBackend
        Makes a backend that plays episodes. It is called in each process that plays.
    progress : ComparisonProgress
        Shows the progress.
    episode : EpisodeFunction
        Plays one episode.
    make_here : MakeBackend, optional
        Makes a backend for the replay, which runs alone in this process and may use all cores; ``make_backend`` by default.
    report : callable, optional
        Writes more files about the results, while the directory is locked.

    Returns
    -------
    Results
        The results.

    Raises
    ------
    ValueError
        Where the directory holds another run, is in use, was deleted meanwhile, or cannot be written. Errors of backends and
        episodes are passed on.
    KeyboardInterrupt
        Where Ctrl-C came in a new directory before anything was written.
    """
    make_here = make_here or make_backend
    _ = comparison.loop.cases  # an error for numbers out of range, before anything is started
    with OutputLock(comparison.out) as lock:
        _check_files(comparison.out)
        with progress:
            comparison, lost, stopped = _play(comparison, make_backend, make_here, progress.on_episode, episode)
            records = RunRecords.read(comparison.out / STEPS_FILE)
            stopped = stopped or _replay(comparison, records, make_here, progress)
        results = _collect(comparison, records, lost, stopped)
        lock.check()
        write_atomically(comparison.out / SUMMARY_FILE, results.summary.model_dump_json(indent=2) + "\n")
        report(results)
    return results


def _play(
    comparison: Comparison, make_backend: MakeBackend, make_here: MakeBackend, on_episode: OnEpisode, episode: EpisodeFunction
) -> tuple[Comparison, list[EpisodeJob], KeyboardInterrupt | None]:
    """Write ``config.json`` and play the closed loop. The workers end with it: they would disturb the times of the replay.

    Return the comparison, which now knows the user's backends with a model, the lost episodes, and what ended the loop early.
    """
    try:
        with comparison.executor.open() as pool:
            models = _describe(comparison.loop, pool, make_backend, make_here)
            comparison = comparison.with_models(models)
            if pool.remote:
                check_alike(models, describe_models(comparison.replayed, make_here))
                make_backend = AlikeFactory(make_backend, models)
            seeds = {case.seed for case in comparison.loop.cases}
            config = describe_run(comparison.command, comparison.arguments(), seeds, models)
            with EpisodeLog(comparison.out / STEPS_FILE) as log:
                open_run(comparison.out, config, _MAY_DIFFER)
                return comparison, play(comparison.loop, make_backend, log, pool, on_episode, episode), None
    except KeyboardInterrupt as stopped:
        if not (comparison.out / RUN_CONFIG_FILE).exists():
            raise
        return comparison, [], stopped


def _check_files(out: Path) -> None:
    """Raise ``ValueError`` for files of other programs and for damaged ones, before anything is started."""
    reports = [name for name in REPORT_FILES if (out / name).exists()]
    if (out / RUN_CONFIG_FILE).exists():
        read_config(out / RUN_CONFIG_FILE)
    elif reports:
        raise ValueError(f"{out} holds {reports[0]}, but no {RUN_CONFIG_FILE} of a run: choose another directory, or move it away")
    _check_summary(out / SUMMARY_FILE)
    if (out / STEPS_FILE).exists():
        with EpisodeLog(out / STEPS_FILE):  # also refuses where a program without this lock writes it
            pass
    paired.read_rows(out / REPLAY_FILE)


def _check_summary(path: Path) -> None:
    """Raise ``ValueError`` where ``path``, which is to be replaced, is no summary."""
    try:
        fields = json.loads(path.read_bytes()) if path.exists() else {"suite": "", "backends": {}}
    except ValueError as error:
        raise ValueError(_NO_SUMMARY.format(path=path, problem=error)) from error
    if not isinstance(fields, dict) or not {"suite", "backends"} <= set(fields):
        raise ValueError(_NO_SUMMARY.format(path=path, problem="it has no suite and no backends"))


_NO_SUMMARY = (
    "{path} is no summary of a run ({problem}). Nothing was changed. Choose another directory; or move this file away, and the "
    "same command computes the summary anew from the records"
)


def _describe(loop: ClosedLoop, pool: Pool, make_backend: MakeBackend, make_here: MakeBackend) -> Mapping[str, dict[str, str]]:
    """Describe the models where episodes are played: another machine may have other devices."""
    specs = [spec for spec in loop.all_backends if runs_model(spec) or is_user_backend(spec)]
    described = pool.call(partial(describe_models, specs, make_backend if pool.remote else make_here))
    return {spec: facts for spec, facts in described.items() if facts}


def _replay(
    comparison: Comparison, records: RunRecords, make_backend: MakeBackend, progress: ComparisonProgress
) -> KeyboardInterrupt | None:
    """Replay what is missing. Return what ended the replay early."""
    specs = comparison.replayed
    if not specs:
        return None
    path = comparison.out / REPLAY_FILE
    try:
        prompts = sample_prompts(comparison, records)
        progress.begin_replay(len(prompts))
        settings = (prompts, specs, make_backend, path, comparison.replay_tokens, progress.on_prompt)
        if comparison.by_episodes:
            replay_episodes(*settings, observe=comparison.loop.config.observe and comparison.loop.plan_horizon == "task")
        else:
            paired.replay(*settings)
    except KeyboardInterrupt as stopped:
        return stopped
    return None


def sample_prompts(comparison: Comparison, records: RunRecords) -> list[RecordedPrompt]:
    """Choose the prompts to replay.

    Parameters
    ----------
    comparison : Comparison
        Gives the number of prompts and the backends.
    records : RunRecords
        Records of the played episodes.

    Returns
    -------
    list of RecordedPrompt
        Prompts of the reference backend's episodes, spread over their lengths; whole episodes where a backend keeps state between
        prompts. Empty while there are none.
    """
    cases = set(comparison.loop.cases)
    reference = records.backends.get(choose_reference(comparison.replayed, comparison.loop.user_models))
    prompts = reference.prompts if reference is not None else []
    choose = choose_episodes if comparison.by_episodes else paired.spread_over_lengths
    return choose([p for p in prompts if Case(p.env_id, p.seed) in cases], comparison.replay_prompts)


def _collect(comparison: Comparison, records: RunRecords, lost: list[EpisodeJob], stopped: KeyboardInterrupt | None) -> Results:
    loop = comparison.loop
    played = records.select(loop.all_backends, loop.cases)
    rows = _sampled_rows(comparison, records) if comparison.replayed else []
    missing = len(loop.all_backends) * len(loop.cases) - sum(len(done.episodes) for done in played.values())
    summary = summarize(loop, played, rows, complete=stopped is None and not missing)
    return Results(comparison.out, summary, played, rows, missing, lost, stopped)


def _sampled_rows(comparison: Comparison, records: RunRecords) -> list[ReplayRow]:
    """Return the rows of the sampled prompts. The file may also hold rows of other episodes or of another sample."""
    rows = paired.read_rows(comparison.out / REPLAY_FILE)
    return paired.rows_of(sample_prompts(comparison, records), rows) if rows else []
