"""Behaviour cloning: train a causal language model on episodes so that it writes the expert's plans.

The model is a stock transformers model with float32 weights; matrix products run in bfloat16 where that is faster. Nothing is
displayed here: progress goes to the ``on_step`` hook and to the run's log. Knows nothing of environments or of pruning.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from erecap.training.checkpoint import StepLog, load_checkpoint, save_checkpoint
from erecap.training.config import Precision, TrainConfig, compute_dtype, planner_config
from erecap.training.data import Batch, Batches, SequenceSet
from erecap.training.loss import LossParts, weighted_loss

__all__ = ["StepRecord", "TrainConfig", "batch_loss", "evaluate", "planner_config", "train_planner"]

StepRecord = dict[str, Any]
StepHook = Callable[[StepRecord], None]
EvalHook = Callable[[int], StepRecord]
StopHook = Callable[[], bool]


def batch_loss(model: PreTrainedModel, batch: Batch, precision: Precision = "auto") -> LossParts:
    """Forward one batch. Right padding behind causal attention needs no mask, so that the fused causal kernel is used."""
    dtype = compute_dtype(precision, batch.input_ids.device)
    with torch.autocast(batch.input_ids.device.type, dtype, enabled=dtype != torch.float32):
        hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        return weighted_loss(hidden, model.get_output_embeddings().weight, batch)


@torch.no_grad()
def evaluate(model: PreTrainedModel, sequences: SequenceSet, token_budget: int = 8192, precision: Precision = "auto") -> StepRecord:
    """Loss on plan tokens and on others, and plan-token accuracy, over every held-out sequence once."""
    batches = Batches(sequences, token_budget)
    sums = torch.zeros(5)
    with _mode(model, training=False):
        seen = 0
        while seen < len(sequences):
            batch = batches.next().to(model.device)
            sums += batch_loss(model, batch, precision).sums().cpu()
            seen += len(batch.indices)
    return _means(sums)


def train_planner(
    model: PreTrainedModel,
    batches: Batches,
    config: TrainConfig,
    out_dir: Path,
    resume: bool = True,
    on_step: StepHook | None = None,
    on_eval: EvalHook | None = None,
    should_stop: StopHook | None = None,
) -> list[StepRecord]:
    """Train ``model`` in place and save it to ``out_dir / "model"``; return the log's records.

    Every ``log_every`` steps a record goes to ``log.jsonl`` and to ``on_step``: step, tokens, progress, elapsed_s, plan_loss,
    other_loss, plan_accuracy, loss, grad_norm, lr, tokens_per_s. Every ``eval_every`` steps and at the end ``on_eval(step)``
    gives a record to log with it under ``eval``. A checkpoint is written every ``checkpoint_every_s`` seconds, at the end, and when
    ``should_stop()``, asked between steps, is true; with ``resume`` a run goes on from it and ends in the same state as one
    that was never stopped (a budget of time apart). Training on other data is another run: give it another ``out_dir``.
    """
    run = _Run(model, batches, config, Path(out_dir), resume)
    run.on_step, run.on_eval, run.should_stop = on_step, on_eval, should_stop
    with _mode(model, training=True):
        run.train()
    model.save_pretrained(Path(out_dir) / "model")
    return run.log.records


@dataclass
class _Window:
    """What is summed up between two log records."""

    sums: Tensor
    loss: float = 0.0
    grad_norm: float = 0.0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


class _Run:
    on_step: StepHook | None = None
    on_eval: EvalHook | None = None
    should_stop: StopHook | None = None

    def __init__(self, model: PreTrainedModel, batches: Batches, config: TrainConfig, out_dir: Path, resume: bool) -> None:
        self.model, self.batches, self.config, self.out_dir = model, batches, config, out_dir
        self.step = self.tokens = 0
        self.elapsed_s = 0.0
        self.optimizer = _optimizer(model, config)
        self.window = _Window(torch.zeros(5, device=model.device))
        state = load_checkpoint(out_dir) if resume else None
        if state is not None:
            self._restore(state)
        self.log = StepLog(out_dir, self.step)

    @property
    def progress(self) -> float:
        return self.config.progress(self.step, self.elapsed_s)

    def train(self) -> None:
        saved_at = time.monotonic()
        while self.progress < 1.0 and not (self.should_stop is not None and self.should_stop()):
            self._train_step()
            if self._due(self.config.log_every) or self._due(self.config.eval_every):
                self._record()
            if time.monotonic() - saved_at > self.config.checkpoint_every_s:
                self.save()
                saved_at = time.monotonic()
        self.save()

    def _due(self, every: int | None) -> bool:
        return every is not None and (self.step % every == 0 or self.progress >= 1.0)

    def _train_step(self) -> None:
        started = time.perf_counter()
        progress = self.progress
        batch = self.batches.next(progress).to(self.model.device)
        lr = self.config.learning_rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        parts = batch_loss(self.model, batch, self.config.precision)
        parts.loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._account(batch, parts, float(norm), time.perf_counter() - started)

    def _account(self, batch: Batch, parts: LossParts, norm: float, seconds: float) -> None:
        self.step, self.tokens, self.elapsed_s = self.step + 1, self.tokens + batch.tokens, self.elapsed_s + seconds
        window = self.window
        window.sums += parts.sums()
        window.loss += float(parts.loss)
        window.grad_norm += norm
        window.steps, window.tokens, window.seconds = window.steps + 1, window.tokens + batch.tokens, window.seconds + seconds

    def _record(self) -> None:
        window = self.window
        record: StepRecord = {"step": self.step, "tokens": self.tokens, "progress": self.progress, "elapsed_s": self.elapsed_s}
        record |= _means(window.sums.cpu())
        record |= {"loss": window.loss / window.steps, "grad_norm": window.grad_norm / window.steps}
        record |= {"lr": self.optimizer.param_groups[0]["lr"], "tokens_per_s": window.tokens / window.seconds}
        if self.on_eval is not None and self._due(self.config.eval_every):
            with _mode(self.model, training=False):
                record["eval"] = self.on_eval(self.step)
        self.window = _Window(torch.zeros_like(window.sums))
        self.log.append(record)
        if self.on_step is not None:
            self.on_step(record)

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "batches": self.batches.state_dict()}
        counts = {"step": self.step, "tokens": self.tokens, "elapsed_s": self.elapsed_s, "window": vars(self.window)}
        save_checkpoint(self.out_dir, {**state, **counts, "rng": torch.get_rng_state()})

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.step, self.tokens, self.elapsed_s = state["step"], state["tokens"], state["elapsed_s"]
        self.window = _Window(**state["window"])
        self.window.sums = self.window.sums.to(self.model.device)
        torch.set_rng_state(state["rng"])


def _optimizer(model: PreTrainedModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; only matrices decay, not norms and biases, which are vectors, and not the embedding, which is also the output."""
    embedding = model.get_input_embeddings().weight
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and p is not embedding]
    rest = [p for p in trained if p.ndim <= 1 or p is embedding]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def _means(sums: Tensor) -> StepRecord:
    plan_loss, correct, plan, other_loss, other = sums.tolist()
    return {
        "plan_loss": plan_loss / max(plan, 1),
        "plan_accuracy": correct / max(plan, 1),
        "other_loss": other_loss / max(other, 1),
        "plan_tokens": int(plan),
    }
