"""A whole comparison: closed loop, paired replay, summary, plots, in one run directory. ``run`` is the same without the replay."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.episode_log import read_episodes
from agents.loop import run_episode
from agents.replay import RecordedPrompt, read_prompts
from agents.runner import EpisodeFunction, MakeBackend
from benchmarks.backends.models import describe_models
from benchmarks.backends.registry import EXPERT, runs_model
from benchmarks.comparison import replay as paired
from benchmarks.comparison.replay import REPLAY_FILE, ReplayRow
from benchmarks.comparison.schema import Summary
from benchmarks.comparison.summary import choose_reference, read_played, summarize
from benchmarks.output.files import write_atomically
from benchmarks.reports.plots import write_plots
from benchmarks.reports.table import markdown
from benchmarks.runs.closed_loop import STEPS_FILE, ClosedLoop, play
from benchmarks.runs.progress import Progress
from benchmarks.runs.provenance import describe_run, open_run
from benchmarks.runs.suites import Case

SUMMARY_FILE, TABLE_FILE = "summary.json", "table.md"
# What a run may be continued with: more or fewer episodes and backends, another pace.
_MAY_DIFFER = ("episodes", "backends", "workers", "replay_prompts")


@dataclass(frozen=True)
class Comparison:
    """What to compare and how. ``replay_prompts=0`` leaves the paired replay out."""

    command: str
    loop: ClosedLoop
    out: Path
    workers: int = 1
    replay_prompts: int = 60
    replay_tokens: int = 16

    def __post_init__(self) -> None:
        if self.replay_prompts < 0:
            raise ValueError(f"replay_prompts={self.replay_prompts} must not be negative: 0 leaves the replay out")
        if self.replay_tokens < 2:
            raise ValueError(f"replay_tokens={self.replay_tokens} must be at least 2: the first belongs to prefill")

    @property
    def replayed(self) -> list[str]:
        """The backends that take part in the replay: those that run a model here, where there are two to compare."""
        models = [spec for spec in self.loop.all_backends if runs_model(spec)]
        return models if len(models) > 1 and self.replay_prompts else []

    def arguments(self) -> dict[str, Any]:
        """Everything that decides the result, for ``config.json``."""
        config = self.loop.config
        return {
            "suite": self.loop.suite.name,
            "backends": list(self.loop.backends),
            "episodes": self.loop.episodes,
            "seed": self.loop.seed,
            "training_seeds": self.loop.training_seeds,
            "workers": self.workers,
            "verbosity": self.loop.suite.verbosity,
            "step_limit_factor": self.loop.suite.step_limit_factor,
            "agent": repr(config),
            "replay_prompts": self.replay_prompts,
            "replay_tokens": self.replay_tokens,
        }


def run_comparison(
    comparison: Comparison,
    make_backend: MakeBackend,
    progress: Progress,
    episode: EpisodeFunction = run_episode,
    make_here: MakeBackend | None = None,
) -> Summary:
    """Do what ``comparison`` says, going on from what its directory holds, and write the results there.

    ``make_here`` makes the backends that are timed in this process, alone, where workers must make do with a part of the cores.
    Ctrl-C ends it early with a summary of what there is (``complete`` is false). Raises ``ValueError`` for a directory of another
    run, and whatever backends and episodes raise.
    """
    loop, out = comparison.loop, comparison.out
    seeds = {case.seed for case in loop.cases}
    models = [spec for spec in loop.all_backends if runs_model(spec)]
    config = describe_run(comparison.command, comparison.arguments(), seeds, describe_models(models, make_here or make_backend))
    open_run(out, config, _MAY_DIFFER)
    try:
        with progress:
            play(loop, make_backend, out, comparison.workers, progress.on_episode, episode)
            _replay(comparison, make_here or make_backend, progress)
    except KeyboardInterrupt:
        return write_results(comparison, interrupted=True)
    return write_results(comparison, interrupted=False)


def _replay(comparison: Comparison, make_backend: MakeBackend, progress: Progress) -> list[ReplayRow]:
    specs = comparison.replayed
    if not specs:
        return []
    prompts = sample_prompts(comparison)
    progress.begin_replay(len(prompts))
    path = comparison.out / REPLAY_FILE
    return paired.replay(prompts, specs, make_backend, path, comparison.replay_tokens, progress.on_prompt)


def sample_prompts(comparison: Comparison) -> list[RecordedPrompt]:
    """The prompts to replay: those of the reference's episodes, spread over lengths."""
    cases = set(comparison.loop.cases)
    prompts = read_prompts(comparison.out / STEPS_FILE, choose_reference(comparison.replayed))
    return paired.spread_over_lengths([p for p in prompts if Case(p.env_id, p.seed) in cases], comparison.replay_prompts)


def write_results(comparison: Comparison, interrupted: bool) -> Summary:
    """Summary, table and plots of what the run directory holds."""
    loop, out = comparison.loop, comparison.out
    played = read_played(out / STEPS_FILE, loop)
    rows = _sampled_rows(comparison) if comparison.replayed else []
    complete = not interrupted and not missing_episodes(comparison)
    summary = summarize(loop, played, rows, complete)
    write_atomically(out / SUMMARY_FILE, summary.model_dump_json(indent=2) + "\n")
    write_atomically(out / TABLE_FILE, markdown(summary))
    write_plots({backend: p.calls for backend, p in played.items() if backend != EXPERT}, rows, out)
    return summary


def _sampled_rows(comparison: Comparison) -> list[ReplayRow]:
    """Rows of the prompts that the comparison samples: the directory may hold others, of more episodes or another sample."""
    rows = paired.read_rows(comparison.out / REPLAY_FILE)
    wanted = {prompt.key for prompt in sample_prompts(comparison)} if rows else set()
    return [row for row in rows if row.key in wanted]


def missing_episodes(comparison: Comparison) -> int:
    """How many episodes of the comparison are not finished."""
    loop = comparison.loop
    done = read_episodes(comparison.out / STEPS_FILE)
    wanted: Sequence[tuple[str, Case]] = [(backend, case) for backend in loop.all_backends for case in loop.cases]
    return sum((backend, case.env_id, case.seed) not in done for backend, case in wanted)
