"""The training loop that the planner and the pruner share: optimiser, schedule, log, checkpoints, resume.

It knows nothing of what is trained: a step function turns a batch into a loss and metrics. Nothing is displayed here; progress goes
to hooks and to the run's log.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erecap.training.checkpoint import StepLog, differences, load_checkpoint, save_checkpoint
from erecap.training.config import TrainConfig
from erecap.training.data import Batch, Batches

StepRecord = dict[str, Any]
Metrics = Mapping[str, tuple[Tensor | float, Tensor | float]]
"""Name -> (sum, count): what is logged is the sum of sums over the sum of counts."""

StepFunction = Callable[[Batch], tuple[Tensor, Metrics]]


@dataclass(frozen=True)
class Hooks:
    """What the caller is told: each log record, when to evaluate, and a question asked between steps."""

    on_step: Callable[[StepRecord], None] | None = None
    on_eval: Callable[[int], StepRecord] | None = None
    should_stop: Callable[[], bool] | None = None


class MetricSums:
    """Sums of metrics over batches."""

    def __init__(self, sums: Mapping[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = {name: list(pair) for name, pair in (sums or {}).items()}

    def add(self, metrics: Metrics) -> None:
        """Add one batch's."""
        for name, (total, count) in metrics.items():
            pair = self.sums.setdefault(name, [0.0, 0.0])
            pair[0] += float(total)
            pair[1] += float(count)

    def means(self) -> dict[str, float]:
        """The mean of each metric; those that never counted anything are left out."""
        return {name: total / count for name, (total, count) in self.sums.items() if count > 0}


@dataclass
class _Window:
    """What is summed up between two log records."""

    metrics: MetricSums = field(default_factory=MetricSums)
    tokens: int = 0
    seconds: float = 0.0


class TrainLoop:
    """One run in one directory. Construct (which resumes), then ``run``.

    ``settings`` names what the run's result depends on beside its batches: a checkpoint with others is refused with ``ValueError``.
    """

    def __init__(
        self,
        module: nn.Module,
        step: StepFunction,
        batches: Batches,
        config: TrainConfig,
        out_dir: Path,
        resume: bool = True,
        hooks: Hooks | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.module, self.step_function, self.batches = module, step, batches
        self.config, self.out_dir, self.hooks = config, out_dir, hooks or Hooks()
        self.settings = json.loads(json.dumps(settings or {}))
        self.device = next(module.parameters()).device
        self.step = self.tokens = 0
        self.elapsed_s = 0.0
        self.optimizer = make_optimizer(module, config)
        self.window = _Window()
        state = load_checkpoint(out_dir) if resume else None
        if state is not None:
            self._restore(state)
        self.log = StepLog(out_dir, self.step)

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0..1."""
        return self.config.progress(self.step, self.elapsed_s)

    def run(self) -> list[StepRecord]:
        """Train until the budget is spent or ``should_stop`` says so; return the log's records."""
        saved_at = time.monotonic()
        with training_mode(self.module, True):
            while self.progress < 1.0 and not (self.hooks.should_stop is not None and self.hooks.should_stop()):
                self._train_step()
                if self._due(self.config.log_every) or self._due(self.config.eval_every):
                    self._record()
                if time.monotonic() - saved_at > self.config.checkpoint_every_s:
                    self._save()
                    saved_at = time.monotonic()
        self._save()
        return self.log.records

    def _due(self, every: int | None) -> bool:
        return every is not None and (self.step % every == 0 or self.progress >= 1.0)

    def _train_step(self) -> None:
        started = time.perf_counter()
        progress = self.progress
        batch = self.batches.next(progress).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(progress)
        loss, metrics = self.step_function(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.window.metrics.add({**metrics, "loss": (loss.detach(), 1), "grad_norm": (norm, 1)})
        self._count(batch.tokens, time.perf_counter() - started)

    def _count(self, tokens: int, seconds: float) -> None:
        self.step, self.tokens, self.elapsed_s = self.step + 1, self.tokens + tokens, self.elapsed_s + seconds
        self.window.tokens, self.window.seconds = self.window.tokens + tokens, self.window.seconds + seconds

    def _record(self) -> None:
        record: StepRecord = {"step": self.step, "tokens": self.tokens, "progress": self.progress, "elapsed_s": self.elapsed_s}
        record |= self.window.metrics.means()
        record |= {"lr": self.optimizer.param_groups[0]["lr"], "tokens_per_s": self.window.tokens / self.window.seconds}
        if self.hooks.on_eval is not None and self._due(self.config.eval_every):
            with training_mode(self.module, False):
                record["eval"] = self.hooks.on_eval(self.step)
        self.window = _Window()
        self.log.append(record)
        if self.hooks.on_step is not None:
            self.hooks.on_step(record)

    def _save(self) -> None:
        window = {"metrics": self.window.metrics.sums, "tokens": self.window.tokens, "seconds": self.window.seconds}
        counts = {"step": self.step, "tokens": self.tokens, "elapsed_s": self.elapsed_s, "window": window}
        states = {name: getattr(self, name).state_dict() for name in ("module", "optimizer", "batches")}
        save_checkpoint(self.out_dir, {**states, **counts, "settings": self.settings, "rng": torch.get_rng_state()})

    def _restore(self, state: Mapping[str, Any]) -> None:
        both = differences(state.get("settings", {}), self.settings)
        if both:
            raise ValueError(f"{self.out_dir} holds a run of other settings ({both}): use another directory, or delete it")
        for name in ("module", "optimizer", "batches"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.tokens, self.elapsed_s = state["step"], state["tokens"], state["elapsed_s"]
        window = state["window"]
        self.window = _Window(MetricSums(window["metrics"]), window["tokens"], window["seconds"])
        torch.set_rng_state(state["rng"])


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; only matrices decay, not norms and biases, which are vectors, and not embeddings, which may also be the output."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in embeddings]
    rest = [p for p in trained if p.ndim <= 1 or id(p) in embeddings]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)


@contextmanager
def training_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """The module in training or evaluation mode; as it was on exit."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)
