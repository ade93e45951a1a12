"""Behaviour cloning: train a causal language model on episodes so that it writes the expert's plans.

The model is a stock transformers model with float32 weights; matrix products run in bfloat16 where that is faster.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.models.attention_kernels import PreferredKernels
from erecap.models.causal_attention import attending_causally, attending_fast, branches_from, branches_of
from erecap.training.batches import Batch, Batches
from erecap.training.config import Precision, TrainConfig, compute_dtype
from erecap.training.graph_steps import GraphSteps
from erecap.training.loop import Hooks, Metrics, TrainLoop, TrainRecord
from erecap.training.loss import LossParts, weighted_loss, weighted_loss_everywhere

LossFunction = Callable[[Tensor, Tensor, Batch], LossParts]
"""A function from hidden states, output matrix and batch to the loss."""


def batch_loss(model: PreTrainedModel, batch: Batch, precision: Precision = "auto") -> LossParts:
    """Run one batch forward and compute its loss.

    Padding on the right needs no mask in causal attention, so the fused causal kernel is used; on a GPU one that needs no plan for
    a new length, since nearly every batch has one.
    """
    if batch.forks is None:
        with attending_fast(model.config, batch.input_ids.device):
            return _loss(model, batch, precision, weighted_loss, {})
    branches, positions = branches_of(batch.forks)
    with attending_causally(model.config):
        return _loss(model, batch, precision, weighted_loss, {"branches": branches, "position_ids": positions})


def fixed_loss(model: PreTrainedModel, batch: Batch, begin: int | None, precision: Precision = "auto") -> LossParts:
    """Compute the loss of a batch whose branches all lie behind ``begin``, in operations that depend on shapes alone."""
    words: dict[str, Any] = {}
    if begin is not None and batch.forks is not None:
        words["branches"], words["position_ids"] = branches_from(batch.forks, begin)
    with attending_causally(model.config):
        return _loss(model, batch, precision, weighted_loss_everywhere, words)


def _loss(model: PreTrainedModel, batch: Batch, precision: Precision, loss: LossFunction, words: dict[str, Any]) -> LossParts:
    """Run a batch forward, with what its branches need, and compute its loss in the dtype of ``precision``."""
    device = batch.input_ids.device
    dtype = compute_dtype(precision, device)
    with PreferredKernels(device) as kernels, torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        kernels.prefer_for(1)
        hidden = model.base_model(input_ids=batch.input_ids, use_cache=False, **words).last_hidden_state
        return loss(hidden, model.get_output_embeddings().weight, batch)  # type: ignore[no-untyped-call]


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
    losses = _Losses(model, batches, config)

    def step(batch: Batch) -> tuple[Tensor, Metrics]:
        parts = losses(batch if config.other_weight is None else batch.weighing_others(config.other_weight))
        return parts.loss, parts.metrics()

    records = TrainLoop(model, step, batches, config, Path(out_dir), hooks).run()
    model.save_pretrained(Path(out_dir) / "model")
    return records


class _Losses:
    """Losses of batches: by CUDA graphs where the model is on a GPU and batches have few shapes, else operation by operation."""

    def __init__(self, model: PreTrainedModel, batches: Batches, config: TrainConfig) -> None:
        self._model, self._precision = model, config.precision
        fixed = partial(fixed_loss, model, precision=config.precision)
        graphs = model.device.type == "cuda" and bool(batches.sizes)
        self._graphs = GraphSteps(model, fixed, batches.token_budget) if graphs else None

    def __call__(self, batch: Batch) -> LossParts:
        if self._graphs is not None:
            try:
                return self._graphs(batch)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                warnings.warn(f"no CUDA graph of a training step, going on without ({error})", stacklevel=2)
                self._graphs = None
                self._model.zero_grad(set_to_none=True)
        return batch_loss(self._model, batch, self._precision)
