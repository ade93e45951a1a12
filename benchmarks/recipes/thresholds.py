"""From recorded prompts to thresholds: fitted on half of the episodes, and compared with ``top_k`` on the other half."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.replay import RecordedPrompt
from benchmarks.backends.registry import choose_reference
from benchmarks.recipes.pruner import refuse_held_out
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.progress import StageProgress
from benchmarks.runs.records import RunRecords
from erecap.calibration.thresholds import Fit, fit_thresholds
from erecap.engine.prefill import prefill
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from erecap.schedule.schedule import PruneSchedule, layer_tokens
from erecap.selectors import LearnedSelector, Selector

_SPREAD = (10, 90)


@dataclass(frozen=True)
class Choice:
    """Which recorded prompts: ``prompts`` of at most ``max_length`` tokens, chosen at random from run directories, ``data``."""

    data: tuple[Path, ...]
    prompts: int = 128
    max_length: int = 4608
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompts < 2 or self.max_length < 1:
            raise ValueError(
                f"num_prompts={self.prompts}, max_length={self.max_length}: give at least 2 prompts, one of which is held out, "
                "and 1 token"
            )


@dataclass(frozen=True)
class Prompts:
    """Prompts to fit to and prompts held out, of different episodes; ``data`` says where they are from."""

    fit: tuple[TokenizedPrompt, ...]
    held_out: tuple[TokenizedPrompt, ...]
    data: str


@dataclass(frozen=True)
class KeptShares:
    """Shares of the held-out prompts' tokens that enter a layer, mean over layers: all prompts together by either rule, and by
    ``threshold`` the 10th and 90th percentile over prompts."""

    top_k: float
    threshold: float
    threshold_p10: float
    threshold_p90: float


def choose_prompts(choice: Choice, chat: ChatTokenizer) -> Prompts:
    """The chosen prompts, those of one backend of each run.

    Halves are made of whole episodes: a replan's prompt holds those before it. Raises ``ValueError`` for held-out seeds, and where
    fewer than two episodes have a prompt that fits.
    """
    found: dict[tuple[str, int], list[TokenizedPrompt]] = {}
    names = []
    for path in choice.data:
        backend, prompts = _recorded(path)
        names.append(f"{path.resolve().name} ({backend})")
        for recorded in prompts:
            prompt = chat.encode((s.role, s.text, s.protected) for s in recorded.prompt.segments)
            if len(prompt) <= choice.max_length:
                found.setdefault((recorded.env_id, recorded.seed), []).append(prompt)
    if len(found) < 2:
        raise ValueError(
            f"{len(found)} episodes with a prompt of at most {choice.max_length} tokens in {', '.join(map(str, choice.data))}: "
            "fitting and holding out take one each, so record more or raise --max-length"
        )
    draw = np.random.default_rng(choice.seed)
    episodes = [found[key] for key in sorted(found)]
    order = draw.permutation(len(episodes))
    halves = (order[: len(order) // 2], order[len(order) // 2 :])
    sizes = (choice.prompts // 2, choice.prompts - choice.prompts // 2)
    held_out, fit = (_draw([p for i in half for p in episodes[i]], n, draw) for half, n in zip(halves, sizes, strict=True))
    return Prompts(fit, held_out, ", ".join(names))


def _recorded(path: Path) -> tuple[str, list[RecordedPrompt]]:
    steps = path / STEPS_FILE
    if not steps.is_file():
        raise ValueError(f"{path} holds no {STEPS_FILE}: give run directories, made by `erecap run --training-seeds`")
    records = RunRecords.read(steps)
    refuse_held_out(steps, records.seeds)
    backend = choose_reference(sorted(records.backends))
    return backend, records.prompts(backend)


def _draw(prompts: Sequence[TokenizedPrompt], count: int, draw: np.random.Generator) -> tuple[TokenizedPrompt, ...]:
    return tuple(prompts[i] for i in sorted(draw.permutation(len(prompts))[:count]))


def fit(
    loaded: LoadedModel, pruner: TokenPruner, schedule: PruneSchedule, prompts: Prompts, progress: StageProgress
) -> tuple[Fit, KeptShares]:
    """Thresholds that keep what ``schedule`` keeps by ``top_k``, and what both keep of the prompts that were not fitted to."""
    selector = LearnedSelector(pruner, schedule)
    progress.begin(f"keep {schedule.stages[0].keep}", len(prompts.fit) * len(schedule.stages) + len(prompts.held_out))
    by_tau = fit_thresholds(loaded.model, prompts.fit, schedule, selector, progress.advance)
    shares = _compare(loaded, schedule, by_tau, selector, prompts.held_out, progress)
    return Fit(by_tau.stages, len(prompts.fit), sum(map(len, prompts.fit)), prompts.data), shares


def _compare(
    loaded: LoadedModel,
    schedule: PruneSchedule,
    by_tau: PruneSchedule,
    selector: Selector,
    prompts: Sequence[TokenizedPrompt],
    progress: StageProgress,
) -> KeptShares:
    layers = loaded.model.config.num_hidden_layers
    counted = np.array([np.mean(layer_tokens(schedule, layers, prompt.protected)) for prompt in prompts])
    measured = []
    for prompt in prompts:
        measured.append(np.mean(prefill(loaded.model, prompt, by_tau, selector).layer_tokens[0]))
        progress.advance()
    lengths = np.array([len(prompt) for prompt in prompts])
    low, high = np.percentile(np.array(measured) / lengths, _SPREAD)
    total = lengths.sum()
    return KeptShares(float(counted.sum() / total), float(sum(measured) / total), float(low), float(high))
