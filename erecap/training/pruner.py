"""Train the token pruner: the language model stays frozen, the stages' MLPs learn which tokens later plans can do without.

Each step plays one replan per episode, from the second on (the first prompt has nothing to prune), under soft masks at a keep ratio
that may be drawn anew for each batch, so that one pruner serves all ratios. ``pruner_loss`` says what is learned from it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.differentiable import frozen
from erecap.models.identity import identify
from erecap.models.pruner import TokenPruner
from erecap.schedule.schedule import PruneSchedule
from erecap.training.config import TrainConfig
from erecap.training.data import Batch, Batches, digest
from erecap.training.early_stopping import EarlyStopping
from erecap.training.loop import Hooks, Metrics, MetricSums, StepRecord, TrainLoop
from erecap.training.pruner_loss import PrunerLoss, lm_loss, pruner_losses
from erecap.training.saliency import SaliencySet
from erecap.training.soft_forward import soft_forward
from erecap.training.softmask import MaskConfig, draw_replans

PRUNER_DIR = "pruner"
EVAL_DRAWS = 4
"""Replans of each held-out episode that an evaluation plays at each keep ratio: of most replans any pruner keeps what they need."""


def train_pruner(
    model: PreTrainedModel,
    pruner: TokenPruner,
    batches: Batches,
    saliency: SaliencySet | None,
    schedule: PruneSchedule,
    config: TrainConfig,
    out_dir: Path,
    loss: PrunerLoss | None = None,
    mask: MaskConfig | None = None,
    resume: bool = True,
    hooks: Hooks | None = None,
    keeps: tuple[float, float] | None = None,
    held_out: Sequence[int] = (),
    patience: int | None = None,
) -> list[StepRecord]:
    """Train ``pruner`` and save it to ``out_dir / "pruner"``; return the log's records.

    ``batches`` deal sequences of the set that ``saliency``, which the terms mse and rank need, was collected from. With ``keeps``
    (lowest, highest) each batch draws its keep ratio from between them; otherwise it is the schedule's. ``held_out`` names
    sequences that ``batches`` do not deal: the pruner of their lowest loss is saved (else the last), and ``patience`` evaluations
    without a lower one end the run.

    Records hold lm, mse and rank (unweighted), their weighted sum loss, order (share of pairs in the order of their saliency) and
    kept_share (of prunable tokens, after the last stage), beside what ``train_planner`` logs; mse, rank and order only where there
    is a saliency. ``eval`` holds the same of the held-out sequences, ``EVAL_DRAWS`` replans of each, under hard verdicts at the
    schedule's keep ratio and at the lowest of ``keeps``. Checkpoints and resume are as there. The model's weights are never
    changed. Raises ``ValueError`` where pruner, schedule, saliency, data and model do not fit, or where ``out_dir`` holds a run of
    other settings.
    """
    play = _Play(model, pruner, saliency, loss or PrunerLoss(), mask or MaskConfig())
    settings: dict[str, Any] = {"model": pruner.identity.checksum, "data": digest(batches.sequences), "training": config.record()}
    settings |= {"loss": asdict(play.loss), "mask": asdict(play.mask), "keeps": keeps, "held_out": sorted(held_out)}
    settings["schedule"] = asdict(schedule)
    _check(model, pruner, schedule, keeps)
    _check_saliency(saliency, pruner, batches, play.loss)

    def step(batch: Batch) -> tuple[Tensor, Metrics]:
        return play.step(batch, schedule if keeps is None else schedule.with_keep(_draw(*keeps)))

    judged = [schedule] if keeps is None else [schedule.with_keep(keeps[0]), schedule]
    stopping = EarlyStopping(lambda: pruner.save_pretrained(Path(out_dir) / PRUNER_DIR), patience)
    told = hooks or Hooks()
    if held_out:
        told = stopping.hooks(
            told, lambda _: play.evaluate(Batches(batches.sequences, batches.token_budget, only=held_out), judged)
        )
    loop = TrainLoop(pruner, step, batches, config, Path(out_dir), resume, told, settings)
    stopping.resume(loop.log.records)
    with frozen(model):
        records = loop.run()
    if stopping.best == math.inf:
        pruner.save_pretrained(Path(out_dir) / PRUNER_DIR)
    return records


@dataclass(frozen=True)
class _Play:
    """Replans of episodes under masks, and what is logged of them."""

    model: PreTrainedModel
    pruner: TokenPruner
    saliency: SaliencySet | None
    loss: PrunerLoss
    mask: MaskConfig

    def step(self, batch: Batch, schedule: PruneSchedule) -> tuple[Tensor, Metrics]:
        """The loss that is differentiated, and (sum, count) of each metric."""
        replans = draw_replans(batch, self.loss.targets)
        forward = soft_forward(self.model, self.pruner, replans, schedule, self.mask)
        terms = {"lm": lm_loss(self.model, forward, replans.batch)}
        if self.saliency is not None:
            found = pruner_losses(forward, [self.saliency[i] for i in batch.indices], self.loss.pairs_per_token)
            terms |= {"mse": found.mse, "rank": found.rank, "order": found.order}
        total = sum((weight * terms[name] for name, weight in self.loss.weights.items()), terms["lm"].new_zeros(()))
        metrics: Metrics = {name: (term.detach(), 1) for name, term in terms.items()}
        return total, {**metrics, "kept_share": forward.mask.kept_share()}

    @torch.no_grad()
    def evaluate(self, batches: Batches, schedules: Iterable[PruneSchedule]) -> dict[str, float]:
        """Means over ``batches`` and ``schedules`` under hard verdicts without noise, with the same draws at each call."""
        sums, hard = MetricSums(), replace(self, mask=replace(self.mask, noise=False, straight_through=True))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for schedule, _ in product(schedules, range(EVAL_DRAWS)):
                for batch in batches.once():
                    total, metrics = hard.step(batch.to(self.model.device), schedule)
                    sums.add({**metrics, "loss": (total, 1)})
        return sums.means()


def _draw(lowest: float, highest: float) -> float:
    return lowest + (highest - lowest) * float(torch.rand(()))


def _check(
    model: PreTrainedModel,
    pruner: TokenPruner,
    schedule: PruneSchedule,
    keeps: tuple[float, float] | None,
) -> None:
    pruner.check_model(identify(model))
    if keeps is not None and not 0 < keeps[0] <= keeps[1] <= 1:
        raise ValueError(f"keep ratios from {keeps[0]} to {keeps[1]}: give 0 < lowest <= highest <= 1")
    if schedule.rule != "top_k":
        raise ValueError(
            f"soft masks are those of the rule 'top_k', not of {schedule.rule!r}: train by top_k; the scorers serve all"
        )
    if schedule.layers != pruner.stages:
        raise ValueError(f"stages differ: schedule {schedule.layers}, pruner {pruner.stages}: make them the same")


def _check_saliency(saliency: SaliencySet | None, pruner: TokenPruner, batches: Batches, loss: PrunerLoss) -> None:
    if saliency is None and loss.needs_saliency:
        raise ValueError(
            f"loss weights mse={loss.mse} rank={loss.rank} are of terms that compare with a saliency, and there is none: collect "
            "one with `erecap saliency`, or leave these terms out"
        )
    if saliency is None:
        return
    if saliency.stages != pruner.stages:
        raise ValueError(f"stages differ: pruner {pruner.stages}, saliency {saliency.stages}: make them the same")
    data = digest(batches.sequences)
    if saliency.data != data:
        raise ValueError(
            f"the saliency is of other episodes (checksum {saliency.data}, {len(saliency)} of them) than these (checksum {data}, "
            f"{len(batches.sequences)}): give the same data, number, length and seed as for the saliency, or collect it again"
        )
