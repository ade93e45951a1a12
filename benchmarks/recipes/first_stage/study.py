"""The study: every first stage at every kept share, point by point, in a file that a stopped run continues."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison.metrics import bootstrap_interval
from benchmarks.recipes.first_stage.cases import ChosenCases
from benchmarks.recipes.first_stage.result import StudyResult
from erecap.calibration.flops import prefill_flops
from erecap.first_stage.answers import Answered, agreement, answer_case
from erecap.first_stage.points import StagePoint
from erecap.models.device import dtype_name
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import ChatTokenizer
from erecap.schedule import PruneSchedule
from erecap.schedule.equal_share import ShareError, first_layers, schedule_of_share, stages_from
from erecap.schedule.stages import format_stages
from erecap.selectors import SelectorContext, make_selector

FLOOR = "random"
"""The selector that any other must beat."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes
    ----------
    selector
        Name of the selector.
    shares
        Mean kept shares, in (0, 1).
    first
        Layers after which to begin; ``None`` for all that are possible.
    floor
        Whether to measure random scores too.
    max_new_tokens
        The most tokens of a greedy answer.

    Raises
    ------
    ValueError
        For no shares, a share twice or outside (0, 1), and for no tokens.
    """

    selector: str
    shares: tuple[float, ...]
    first: tuple[int, ...] | None = None
    floor: bool = True
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        bad = [share for share in self.shares if not 0.0 < share < 1.0]
        if bad or not self.shares or len(set(self.shares)) < len(self.shares):
            raise ValueError(f"share={list(self.shares)} must be different numbers between 0 and 1: such as 0.6,0.4")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1: the greedy plans are compared")

    @property
    def selectors(self) -> tuple[str, ...]:
        """The selectors to measure."""
        return (self.selector, FLOOR) if self.floor and self.selector != FLOOR else (self.selector,)


@dataclass(frozen=True)
class Target:
    """A schedule to measure: the share that was asked for, and the schedule that gives it."""

    share: float
    schedule: PruneSchedule

    @property
    def place(self) -> tuple[float, int, str]:
        """Share, first stage and all stages, by which a measured point is known."""
        return self.share, self.schedule.layers[0], format_stages(self.schedule.layers)


@dataclass(frozen=True)
class Study:
    """A model, its scorers and the cases on which they are measured.

    Attributes
    ----------
    loaded
        The model.
    pruner
        Its pruner; ``None`` for a selector without one.
    chosen
        Prompts and answers.
    plan
        What to measure.
    weights
        Checksum of the pruner's weights.
    """

    loaded: LoadedModel
    pruner: TokenPruner | None
    chosen: ChosenCases
    plan: Plan
    weights: str | None = None

    def setting(self) -> dict[str, Any]:
        """Describe what all points share; a file of another setting is not continued."""
        learned = {} if self.pruner is None else {"pruner": self.weights, "pruner_stages": list(self.pruner.stages)}
        return {
            "model": self.loaded.identity.describe(),
            "dtype": dtype_name(self.loaded.dtype),
            "device": str(self.loaded.device),
            "data": list(self.chosen.sources),
            "prompts": len(self.chosen.cases),
            "prompt_tokens": float(np.mean([len(case.prompt) for case in self.chosen.cases])),
            "digest": self.chosen.digest,
            "max_new_tokens": self.plan.max_new_tokens,
            **learned,
        }

    def targets(self) -> tuple[list[Target], list[dict[str, Any]]]:
        """Solve for the schedules of every share and first stage; return them, and those that do not exist.

        Raises
        ------
        ValueError
            For a first stage that is not possible, and a model with no place for one.
        """
        layers = self.loaded.model.config.num_hidden_layers
        allowed = None if self.pruner is None else self.pruner.stages
        possible = first_layers(layers, allowed)
        if not possible:
            raise ValueError(f"a model of {layers} layers has no place for a first stage, which needs two layers after it")
        masks = [case.prompt.protected for case in self.chosen.cases]
        targets: list[Target] = []
        missing: list[dict[str, Any]] = []
        for share in sorted(self.plan.shares, reverse=True):
            for first in possible if self.plan.first is None else self.plan.first:
                stages = stages_from(first, layers, allowed)
                try:
                    targets.append(Target(share, schedule_of_share(stages, layers, share, masks)))
                except ShareError as error:
                    missing.append({"share": share, "first": first, "stages": format_stages(stages), "nearest": error.nearest})
        if not targets:
            shares, nearest = " or ".join(f"{share:g}" for share in self.plan.shares), min(one["nearest"] for one in missing)
            raise ValueError(
                f"no first stage gives these prompts a kept share of {shares}, the lowest is {nearest:.2f}: give a larger --share, "
                "or longer prompts (--min-length)"
            )
        return targets, missing

    def run(self, path: Path, on_case: Callable[[str], None], on_work: Callable[[int], None]) -> StudyResult:
        """Measure what ``path`` does not hold yet, and write the file after every point.

        Parameters
        ----------
        path
            The file.
        on_case
            Called after each case, with the result of a point after its last case and "" otherwise.
        on_work
            Called once with the number of cases to run.
        """
        targets, missing = self.targets()
        result = StudyResult.load(path, self.setting())
        result.unreachable = missing
        done = {point.place for point in result.points}
        todo = [(name, one) for name in self.plan.selectors for one in targets if (name, *one.place) not in done]
        cases = len(self.chosen.cases)
        on_work((len(todo) + (not result.unpruned)) * cases)
        if not result.unpruned:
            result.unpruned = self._answer(PruneSchedule.none(), None, on_case, "unpruned")
            result.save(path)
        for name, target in todo:
            result.points.append(self._point(name, target, result.unpruned, on_case))
            result.save(path)
        return result

    def _answer(self, schedule: PruneSchedule, selector: str | None, on_case: Callable[[str], None], label: str) -> list[Answered]:
        context = SelectorContext(schedule, self.pruner, 0, self.loaded.model, self.loaded.eos_ids)
        scorer = None if selector is None else make_selector(selector, context)
        found: list[Answered] = []
        for case in self.chosen.cases:
            found.append(answer_case(self.loaded, case, schedule, scorer, self.plan.max_new_tokens))
            last = len(found) == len(self.chosen.cases)
            on_case(f"{label}: loss {np.mean([one.loss for one in found]):.4f}" if last else "")
        return found

    def _point(self, name: str, target: Target, unpruned: Sequence[Answered], on_case: Callable[[str], None]) -> StagePoint:
        label = f"{name}, share {target.share:g}, first stage after layer {target.schedule.layers[0]}"
        return self._compare(name, target, self._answer(target.schedule, name, on_case, label), unpruned)

    def _compare(self, name: str, target: Target, made: Sequence[Answered], unpruned: Sequence[Answered]) -> StagePoint:
        pairs = list(zip(made, unpruned, strict=True))
        diffs = [mine.loss - full.loss for mine, full in pairs]
        same = partial(agreement, decode_text=ChatTokenizer(self.loaded.tokenizer).decode, eos_ids=self.loaded.eos_ids)
        agreed = [same(mine.tokens, full.tokens) for mine, full in pairs]
        config = self.loaded.model.config
        flops = [sum(sum(prefill_flops(config, one.layer_tokens)) for one in side) for side in (unpruned, made)]
        shares = [(np.mean(one.layer_tokens) / one.layer_tokens[0], one.layer_tokens[-1] / one.layer_tokens[0]) for one in made]
        return StagePoint(
            selector=name,
            share=target.share,
            first=target.schedule.layers[0],
            stages=format_stages(target.schedule.layers),
            keep=target.schedule.stages[0].keep,
            kept_share=float(np.mean([kept for kept, _ in shares])),
            final_share=float(np.mean([final for _, final in shares])),
            kv_share=float(np.mean([mine.kv_bytes / full.kv_bytes for mine, full in pairs])),
            ttft_ceiling=flops[0] / flops[1],
            loss=float(np.mean([one.loss for one in made])),
            loss_diff=float(np.mean(diffs)),
            loss_diff_ci95=bootstrap_interval(diffs),
            same_plan=float(np.mean([one.plan for one in agreed])),
            same_first_line=float(np.mean([one.first_line for one in agreed])),
            same_tokens=float(np.mean([one.tokens for one in agreed])),
            loss_diffs=tuple(diffs),
        )
