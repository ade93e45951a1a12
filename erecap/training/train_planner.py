"""Behaviour cloning: train a causal language model on episodes so that it writes the expert's plans.

The model is a stock transformers model with float32 weights; matrix products run in bfloat16 where that is faster.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.models.attention_kernels import PreferredKernels
from erecap.models.causal_attention import attending_causally, attending_fast, branches_of
from erecap.training.batches import Batch, Batches
from erecap.training.config import Precision, TrainConfig, compute_dtype
from erecap.training.loop import Hooks, Metrics, TrainLoop, TrainRecord
from erecap.training.loss import LossParts, weighted_loss


def batch_loss(model: PreTrainedModel, batch: Batch, precision: Precision = "auto") -> LossParts:
    """Run one batch forward and compute its loss.

    Padding on the right needs no mask in causal attention, so the fused causal kernel is used; on a GPU one that needs no plan for
    a new length, since nearly every batch has one.
    """
    device = batch.input_ids.device
    dtype = compute_dtype(precision, device)
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with PreferredKernels(device) as kernels, _attention(model, batch), autocast:
        kernels.prefer_for(1)
        hidden = model.base_model(input_ids=batch.input_ids, use_cache=False, **_branches(batch)).last_hidden_state
        return weighted_loss(hidden, model.get_output_embeddings().weight, batch)  # type: ignore[no-untyped-call]


def _attention(model: PreTrainedModel, batch: Batch) -> AbstractContextManager[None]:
    if batch.forks is None:
        return attending_fast(model.config, batch.input_ids.device)
    return attending_causally(model.config)


def _branches(batch: Batch) -> dict[str, Any]:
    """Make the arguments of the model that branches need: where they are, and the positions of all tokens."""
    if batch.forks is None:
        return {}
    branches, positions = branches_of(batch.forks)
    return {"branches": branches, "position_ids": positions}


def train_planner(
    model: PreTrainedModel, batches: Batches, config: TrainConfig, out_dir: Path, hooks: Hooks | None = None
) -> list[TrainRecord]:
    """Train ``model`` in place and save it to ``out_dir / "model"``.

    A run continues from the checkpoint in ``out_dir``. With a number of steps it ends in the same state as a run without a stop.
    Train on other data in another ``out_dir``.

    Parameters
    ----------
    model
        A causal language model with float32 weights.
    batches
        Training data.
    config
        Length and settings of the run.
    out_dir
        Directory of the run: checkpoint, ``log.jsonl``, model.
    hooks
        Callbacks.

    Returns
    -------
    list of TrainRecord
        The records of the log, one every ``log_every`` steps: step, tokens, progress, elapsed_s, plan_loss, plan_accuracy,
        other_loss, loss, grad_norm, lr, tokens_per_s, and ``eval`` where there was an evaluation.

    Raises
    ------
    ValueError
        For a damaged checkpoint, and for one with batches of another set or seed.
    """

    def step(batch: Batch) -> tuple[Tensor, Metrics]:
        weighed = batch if config.other_weight is None else batch.weighing_others(config.other_weight)
        parts = batch_loss(model, weighed, config.precision)
        return parts.loss, parts.metrics()

    records = TrainLoop(model, step, batches, config, Path(out_dir), hooks).run()
    model.save_pretrained(Path(out_dir) / "model")
    return records
