"""The recipe of the thresholds: fit to recorded prompts of half of the episodes, and comparison with ``top_k`` on the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.recorded_prompts import RecordedPrompt
from benchmarks.backends.registry import choose_reference
from benchmarks.recipes.seeds import refuse_held_out
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.progress import StageProgress
from benchmarks.runs.records import RunRecords
from erecap.backend import encode_prompt
from erecap.calibration.thresholds import Fit, fit_thresholds
from erecap.engine.prefill import prefill
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from erecap.schedule import PruneSchedule, layer_tokens
from erecap.selectors import LearnedSelector, Selector

_SPREAD = (10, 90)


@dataclass(frozen=True)
class PromptChoice:
    """A choice of recorded prompts.

    Attributes
    ----------
    data
        Run directories.
    prompts
        Number of prompts, chosen at random; half of them are held out.
    max_length
        Longest prompt in tokens; longer ones are left out.
    seed
        Seed of the choice.

    Raises
    ------
    ValueError
        For fewer than 2 prompts, and for a length below 1.
    """

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
class PromptHalves:
    """Recorded prompts in two halves that share no episode.

    Attributes
    ----------
    fit
        Prompts to fit to.
    held_out
        Prompts to compare on.
    data
        Source of the prompts, in words.
    """

    fit: tuple[TokenizedPrompt, ...]
    held_out: tuple[TokenizedPrompt, ...]
    data: str


@dataclass(frozen=True)
class KeptShares:
    """Shares of the held-out prompts' tokens that enter a layer, mean over layers, 0..1.

    Attributes
    ----------
    top_k, threshold
        Share over all prompts together, under the rule ``top_k`` and under ``threshold``.
    threshold_p10, threshold_p90
        10th and 90th percentile over prompts of the share under ``threshold``.
    """

    top_k: float
    threshold: float
    threshold_p10: float
    threshold_p90: float


def choose_prompts(choice: PromptChoice, chat: ChatTokenizer) -> PromptHalves:
    """Read the chosen prompts of each run's reference backend, and split them in halves.

    Each half consists of whole episodes, since a replan's prompt contains the prompts before it.

    Raises
    ------
    ValueError
        For held-out seeds, for a directory without a run, and where fewer than two episodes have a prompt that fits.
    """
    found: dict[tuple[str, int], list[TokenizedPrompt]] = {}
    names = []
    for path in choice.data:
        backend, prompts = _recorded(path)
        names.append(f"{path.resolve().name} ({backend})")
        for recorded in prompts:
            prompt = encode_prompt(chat, recorded.prompt)
            if len(prompt) <= choice.max_length:
                found.setdefault((recorded.env_id, recorded.seed), []).append(prompt)
    if len(found) < 2:
        raise ValueError(
            f"{len(found)} episodes with a prompt of at most {choice.max_length} tokens in {', '.join(map(str, choice.data))}: "
            "the fit and the held-out half need one each, so record more or raise --max-length"
        )
    draw = np.random.default_rng(choice.seed)
    episodes = [found[key] for key in sorted(found)]
    order = draw.permutation(len(episodes))
    halves = (order[: len(order) // 2], order[len(order) // 2 :])
    sizes = (choice.prompts // 2, choice.prompts - choice.prompts // 2)
    held_out, fit = (_draw([p for i in half for p in episodes[i]], n, draw) for half, n in zip(halves, sizes, strict=True))
    return PromptHalves(fit, held_out, ", ".join(names))


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


@dataclass(frozen=True)
class ThresholdFitting:
    """A planner and the scores of its pruner, to which thresholds are fitted.

    Attributes
    ----------
    loaded
        The planner.
    pruner
        Its pruner.
    prompts
        Prompts to fit to and to compare on.
    progress
        Shows the progress by prompt.
    """

    loaded: LoadedModel
    pruner: TokenPruner
    prompts: PromptHalves
    progress: StageProgress

    def run(self, schedule: PruneSchedule) -> tuple[Fit, KeptShares]:
        """Fit thresholds that keep as many tokens as ``schedule``, whose rule is ``top_k``. Compare both on held-out prompts.

        Raises
        ------
        ValueError
            If no token of the prompts may be dropped.
        """
        selector, prompts = LearnedSelector(self.pruner, schedule), self.prompts
        self.progress.begin(f"keep {schedule.stages[0].keep}", len(prompts.fit) * len(schedule.stages) + len(prompts.held_out))
        by_tau = fit_thresholds(self.loaded.model, prompts.fit, schedule, selector, self.progress.advance)
        fit = Fit(by_tau.stages, len(prompts.fit), sum(map(len, prompts.fit)), prompts.data)
        return fit, self._compare(schedule, by_tau, selector)

    def _compare(self, schedule: PruneSchedule, by_tau: PruneSchedule, selector: Selector) -> KeptShares:
        model, prompts = self.loaded.model, self.prompts.held_out
        layers = model.config.num_hidden_layers
        counted = np.array([np.mean(layer_tokens(schedule, layers, prompt.protected)) for prompt in prompts])
        measured = []
        for prompt in prompts:
            measured.append(np.mean(prefill(model, prompt, by_tau, selector).layer_tokens[0]))
            self.progress.advance()
        lengths = np.array([len(prompt) for prompt in prompts])
        low, high = np.percentile(np.array(measured) / lengths, _SPREAD)
        total = lengths.sum()
        return KeptShares(float(counted.sum() / total), float(sum(measured) / total), float(low), float(high))
