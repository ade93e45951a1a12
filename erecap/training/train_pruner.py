"""Training of the token pruner. The language model is frozen; the scorer of each stage learns which tokens later plans need.

Each step runs one replan of each episode under soft masks. The first replan is left out, since its prompt has nothing to prune. The
keep ratio may be drawn for each batch (``ratios``), so that one pruner serves all. ``pruner_loss`` holds the terms of the loss.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.differentiable import frozen
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.training.batches import Batch, Batches, later_plan_count
from erecap.training.config import TrainConfig
from erecap.training.early_stopping import EarlyStopping
from erecap.training.loop import Hooks, Metrics, MetricSums, TrainLoop, TrainRecord
from erecap.training.pruner_loss import PrunerLoss, lm_loss, pruner_losses
from erecap.training.ratios import Ratios
from erecap.training.saliency_file import SaliencySet
from erecap.training.sequences import digest
from erecap.training.soft_forward import soft_forward
from erecap.training.softmask import MaskConfig, draw_replans

PRUNER_DIR = "pruner"
EVAL_DRAWS = 4
"""Number of replans of each held-out episode that an evaluation runs at each keep ratio. Several are needed: in most replans even a
bad pruner keeps what the plan needs. A text with one answer has one replan, and is run once."""


@dataclass(frozen=True)
class PrunerTraining:
    """The settings of a pruner's training.

    Attributes
    ----------
    schedule
        The stages of the pruner, and their keep ratio where ``keeps`` is ``None``. The rule must be ``top_k``.
    config
        Length and settings of the run.
    loss
        Weights and settings of the loss terms.
    mask
        Softness of the keep-or-drop decisions.
    keeps
        Range of the keep ratios; each batch draws one from it.
    patience
        Evaluations without a lower held-out loss after which the run ends; ``None`` for never.

    Raises
    ------
    ValueError
        For a schedule of another rule.
    """

    schedule: PruneSchedule
    config: TrainConfig
    loss: PrunerLoss = field(default_factory=PrunerLoss)
    mask: MaskConfig = field(default_factory=MaskConfig)
    keeps: Ratios | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.schedule.rule != "top_k":
            raise ValueError(
                f"soft masks are those of the rule 'top_k', not of {self.schedule.rule!r}: train by top_k; the scorers serve all"
            )

    def draw(self) -> PruneSchedule:
        """Return the schedule of the next batch, with a keep ratio drawn by torch's global generator."""
        if self.keeps is None:
            return self.schedule
        return self.schedule.with_keep(self.keeps.at(float(torch.rand(())), len(self.schedule.stages)))

    @property
    def judged(self) -> list[PruneSchedule]:
        """The schedules of an evaluation: ``schedule``, and the same stages at the lowest keep ratio of ``keeps``, if given."""
        if self.keeps is None:
            return [self.schedule]
        return [self.schedule.with_keep(self.keeps.at(0.0, len(self.schedule.stages))), self.schedule]

    def record(self) -> dict[str, Any]:
        """Return the settings on which the result depends as plain values, for the checkpoint."""
        parts = {"training": self.config.record(), "loss": asdict(self.loss), "mask": asdict(self.mask)}
        keeps = None if self.keeps is None else asdict(self.keeps)
        return {**parts, "keeps": keeps, "schedule": asdict(self.schedule)}


@dataclass(frozen=True)
class PrunerData:
    """The training data of a pruner.

    Attributes
    ----------
    batches
        Episodes.
    saliency
        Saliency of the same sequences; required by the loss terms ``mse`` and ``rank``.
    held_out
        Numbers of the sequences to evaluate on; ``batches`` must not contain them.
    """

    batches: Batches
    saliency: SaliencySet | None = None
    held_out: tuple[int, ...] = ()

    def evaluation(self) -> list[Batch]:
        """Return the batches of an evaluation: ``EVAL_DRAWS`` times those of the held-out episodes, once those of one replan."""
        counts = {number: later_plan_count(self.batches.sequences[number]) for number in self.held_out}
        groups = [([number for number, count in counts.items() if count > 1], EVAL_DRAWS)]
        groups.append(([number for number, count in counts.items() if count == 1], 1))
        budget, sequences = self.batches.token_budget, self.batches.sequences
        drawn = [(Batches(sequences, budget, only=numbers), draws) for numbers, draws in groups if numbers]
        return [batch for batches, draws in drawn for _ in range(draws) for batch in batches.once()]

    def usable(self) -> "PrunerData":
        """Return the data without the sequences that teach nothing, those without a plan after the first turn. Warn of how many.

        Raises
        ------
        ValueError
            Where nothing is left to train on.
        """
        sequences, numbers = self.batches.sequences, self.batches.numbers
        trained = tuple(i for i in numbers if later_plan_count(sequences[i]))
        held_out = tuple(i for i in self.held_out if later_plan_count(sequences[i]))
        if not trained:
            raise ValueError(
                f"none of {len(numbers)} sequences has a plan after the first turn, so nothing can be pruned: give longer episodes"
            )
        left_out = len(numbers) - len(trained) + len(self.held_out) - len(held_out)
        if not left_out:
            return self
        warnings.warn(
            f"left out {left_out} sequences without a plan after the first turn: they have nothing to prune", stacklevel=3
        )
        return replace(self, batches=self.batches.only(trained), held_out=held_out)


def train_pruner(
    model: PreTrainedModel,
    pruner: TokenPruner,
    data: PrunerData,
    settings: PrunerTraining,
    out_dir: Path,
    hooks: Hooks | None = None,
) -> list[TrainRecord]:
    """Train ``pruner`` in place and save it to ``out_dir / "pruner"``; with held-out sequences, save the pruner of the lowest loss.

    The weights of ``model`` do not change. A run continues from the checkpoint in ``out_dir``. Sequences without a plan after the
    first turn have nothing to prune: they are left out, and a warning says how many.

    Returns
    -------
    list of TrainRecord
        The records of the log. Besides the fields of every run (step, tokens, progress, elapsed_s, loss, grad_norm, lr,
        tokens_per_s) they hold the unweighted loss terms lm, mse and rank; order, the share of token pairs whose scores are in the
        order of their saliency; kept_share and final_share, of the prunable tokens that enter a layer (mean over layers) and the
        last layer. mse, rank and order need saliency. ``eval`` holds the same figures of the held-out sequences with tokens fully
        kept or dropped: ``EVAL_DRAWS`` replans of each (one of a sequence that has no more), at the schedule's keep ratio and at
        the lowest of ``keeps``. lm is also given by ratio, as "lm at keep 0.3": at a low one it may be as high for any pruner.

    Raises
    ------
    ValueError
        If pruner, schedule, saliency, data and model do not fit together, or ``out_dir`` holds a run with other settings.
    """
    _check(model, pruner, settings.schedule)
    _check_saliency(data, pruner, settings.loss)
    data = data.usable()
    play = _Play(model, pruner, data.saliency, settings.loss, settings.mask)
    stopping = EarlyStopping(lambda: pruner.save_pretrained(Path(out_dir) / PRUNER_DIR), settings.patience)
    told = hooks or Hooks()
    if data.held_out:
        judged = data.evaluation()
        told = stopping.hooks(told, lambda step: play.evaluate(judged, settings.judged, told.about(step)))
    depends_on = {"model": pruner.identity.checksum, "data": digest(data.batches.sequences), "held_out": sorted(data.held_out)}
    depends_on["inputs"] = pruner.inputs

    def step(batch: Batch) -> tuple[Tensor, Metrics]:
        return play.step(batch, settings.draw())

    loop = TrainLoop(pruner, step, data.batches, settings.config, Path(out_dir), told, {**depends_on, **settings.record()})
    stopping.resume(loop.log.records)
    with frozen(model):
        records = loop.run()
    if stopping.best == math.inf:
        pruner.save_pretrained(Path(out_dir) / PRUNER_DIR)
    return records


@dataclass(frozen=True)
class _Play:
    """A run of replans under masks, with its loss and metrics."""

    model: PreTrainedModel
    pruner: TokenPruner
    saliency: SaliencySet | None
    loss: PrunerLoss
    mask: MaskConfig

    def step(self, batch: Batch, schedule: PruneSchedule) -> tuple[Tensor, Metrics]:
        """Compute the loss that is differentiated, and (sum, count) of each metric."""
        replans = draw_replans(batch, self.loss.targets)
        forward = soft_forward(self.model, self.pruner, replans, schedule, self.mask)
        terms = {"lm": lm_loss(self.model, forward, replans.batch)}
        if self.saliency is not None:
            found = pruner_losses(forward, [self.saliency[i] for i in batch.indices], self.loss.pairs_per_token)
            terms |= {"mse": found.mse, "rank": found.rank, "order": found.order}
        total = sum((weight * terms[name] for name, weight in self.loss.weights.items()), terms["lm"].new_zeros(()))
        metrics: Metrics = {name: (term.detach(), 1) for name, term in terms.items()}
        return total, {**metrics, "kept_share": forward.kept_share(), "final_share": forward.final_share()}

    @torch.no_grad()
    def evaluate(
        self, batches: Sequence[Batch], schedules: Sequence[PruneSchedule], about: Callable[[str], None] = lambda _: None
    ) -> dict[str, float]:
        """Average the metrics over ``batches`` and ``schedules``, with hard decisions, no noise and the same draws at each call.

        ``about`` is told of each batch that is done.
        """
        sums, hard = MetricSums(), replace(self, mask=replace(self.mask, noise=False, straight_through=True))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for number, (schedule, batch) in enumerate(product(schedules, batches), 1):
                total, metrics = hard.step(batch.to(self.model.device), schedule)
                sums.add({**metrics, "loss": (total, 1), _lm_name(schedule): metrics["lm"]})
                about(f"validation: batch {number} of {len(schedules) * len(batches)}")
        return sums.means()


def _lm_name(schedule: PruneSchedule) -> str:
    keep = schedule.stages[0].keep if schedule.stages else 1.0
    return f"lm at keep {keep:.3g}"


def _check(model: PreTrainedModel, pruner: TokenPruner, schedule: PruneSchedule) -> None:
    pruner.check_model(identify(model))
    if schedule.layers != pruner.stages:
        raise ValueError(f"stages differ: schedule {schedule.layers}, pruner {pruner.stages}: make them the same")


def _check_saliency(data: PrunerData, pruner: TokenPruner, loss: PrunerLoss) -> None:
    saliency, sequences = data.saliency, data.batches.sequences
    if saliency is None and loss.needs_saliency:
        raise ValueError(
            f"loss weights mse={loss.mse} rank={loss.rank} are of terms that compare with a saliency, and there is none: collect "
            "one with `erecap saliency`, or leave these terms out"
        )
    if saliency is None:
        return
    if saliency.stages != pruner.stages:
        raise ValueError(f"stages differ: pruner {pruner.stages}, saliency {saliency.stages}: make them the same")
    checksum = digest(sequences)
    if saliency.data != checksum:
        raise ValueError(
            f"the saliency is of other episodes (checksum {saliency.data}, {len(saliency)} of them) than these (checksum "
            f"{checksum}, {len(sequences)}): give the same data, number, length and seed as for the saliency, or collect it again"
        )
