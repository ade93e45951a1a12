"""Behaviour cloning: train a causal language model on episodes so that it writes the expert's plans.

The model is a stock transformers model with float32 weights; matrix products run in bfloat16 where that is faster. Knows nothing of
environments or of pruning.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from erecap.training.config import Precision, TrainConfig, compute_dtype, planner_config
from erecap.training.data import Batch, Batches, SequenceSet
from erecap.training.loop import Hooks, MetricSums, StepRecord, TrainLoop, training_mode
from erecap.training.loss import LossParts, weighted_loss

__all__ = ["StepRecord", "TrainConfig", "batch_loss", "evaluate", "planner_config", "train_planner"]


def batch_loss(model: PreTrainedModel, batch: Batch, precision: Precision = "auto") -> LossParts:
    """Forward one batch. Right padding behind causal attention needs no mask, so that the fused causal kernel is used."""
    dtype = compute_dtype(precision, batch.input_ids.device)
    with torch.autocast(batch.input_ids.device.type, dtype, enabled=dtype != torch.float32):
        hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        return weighted_loss(hidden, model.get_output_embeddings().weight, batch)  # type: ignore[no-untyped-call]


@torch.no_grad()
def evaluate(
    model: PreTrainedModel, sequences: SequenceSet, token_budget: int = 8192, precision: Precision = "auto"
) -> dict[str, float]:
    """plan_loss, plan_accuracy and other_loss over every held-out sequence once."""
    sums = MetricSums()
    with training_mode(model, False):
        for batch in Batches(sequences, token_budget).once():
            sums.add(batch_loss(model, batch.to(model.device), precision).metrics())
    return sums.means()


def train_planner(
    model: PreTrainedModel,
    batches: Batches,
    config: TrainConfig,
    out_dir: Path,
    resume: bool = True,
    on_step: Callable[[StepRecord], None] | None = None,
    on_eval: Callable[[int], StepRecord] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[StepRecord]:
    """Train ``model`` in place and save it to ``out_dir / "model"``; return the log's records.

    Every ``log_every`` steps a record goes to ``log.jsonl`` and to ``on_step``: step, tokens, progress, elapsed_s, plan_loss,
    plan_accuracy, other_loss, loss, grad_norm, lr, tokens_per_s. Every ``eval_every`` steps and at the end ``on_eval(step)`` gives
    a record to log with it under ``eval``. A checkpoint is written every ``checkpoint_every_s`` seconds, at the end, and when
    ``should_stop()``, asked between steps, is true; with ``resume`` a run goes on from it and ends in the same state as one
    that was never stopped (a budget of time apart). Training on other data is another run: give it another ``out_dir``.
    """

    def step(batch: Batch) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        parts = batch_loss(model, batch, config.precision)
        return parts.loss, parts.metrics()

    records = TrainLoop(model, step, batches, config, Path(out_dir), resume, Hooks(on_step, on_eval, should_stop)).run()
    model.save_pretrained(Path(out_dir) / "model")
    return records
