"""The training loop of the planner and the pruner: optimiser, learning rate, log, checkpoints, resume.

A step function turns a batch into a loss and metrics, so the loop serves any model. Progress goes to hooks and to the run's log.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erecap.training.batches import Batch, Batches
from erecap.training.checkpoint import StepLog, describe_differences, load_checkpoint, save_checkpoint
from erecap.training.config import TrainConfig

TrainRecord = dict[str, Any]
"""One line of a run's log: figures by name, over the steps since the previous line."""

Metrics = Mapping[str, tuple[Tensor | float, Tensor | float]]
"""Name -> (sum, count) of a batch. The log holds sum / count over all batches since the previous record."""

StepFunction = Callable[[Batch], tuple[Tensor, Metrics]]
"""A function from a batch to the loss that is differentiated, and the metrics to log. One that has set the gradients itself
returns a detached loss."""


@dataclass(frozen=True)
class Hooks:
    """The callbacks of a run.

    Attributes
    ----------
    on_step
        Called with each record of the log.
    on_eval
        Called with the step number every ``eval_every`` steps and at the end; its result is logged under ``eval``.
    should_stop
        Called between steps; true ends the run, which may be resumed.
    on_work
        Called after each step and each batch of an evaluation, with the steps done and the work in words: progress.
    """

    on_step: Callable[[TrainRecord], None] | None = None
    on_eval: Callable[[int], TrainRecord] | None = None
    should_stop: Callable[[], bool] | None = None
    on_work: Callable[[int, str], None] | None = None

    def about(self, step: int) -> Callable[[str], None]:
        """Return a function that tells ``on_work`` of work done at ``step``."""

        def tell(work: str) -> None:
            if self.on_work is not None:
                self.on_work(step, work)

        return tell


class MetricSums:
    """Sums of metrics over batches.

    Parameters
    ----------
    sums
        Name -> [sum, count] to start from, such as ``sums`` of another instance.
    """

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None) -> None:
        self._sums: dict[str, tuple[Tensor | float, Tensor | float]] = {name: (a, b) for name, (a, b) in (sums or {}).items()}

    @property
    def sums(self) -> dict[str, list[float]]:
        """Name -> [sum, count]. Waits for a GPU to be done."""
        return {name: [float(total), float(count)] for name, (total, count) in self._sums.items()}

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of one batch. Does not wait for a GPU."""
        for name, (total, count) in metrics.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = before[0] + _exact(total), before[1] + _exact(count)

    def means(self) -> dict[str, float]:
        """Compute the mean of each metric whose count is not 0."""
        return {name: total / count for name, (total, count) in self.sums.items() if count > 0}


def _exact(figure: Tensor | float) -> Tensor | float:
    return figure.double() if isinstance(figure, Tensor) else figure


@dataclass
class _Window:
    """Sums between two log records."""

    metrics: MetricSums = field(default_factory=MetricSums)
    tokens: int = 0
    seconds: float = 0.0


class TrainLoop:
    """A training run in a directory. The constructor restores the checkpoint in ``out_dir``, if any; ``run`` trains.

    Parameters
    ----------
    module
        The module to train, on its device.
    step
        Computes loss and metrics of a batch.
    batches
        Training data.
    config
        Length and settings of the run.
    out_dir
        Directory of the run.
    hooks
        Callbacks.
    settings
        Everything else that the result depends on, as plain values. A checkpoint with other settings is refused.

    Raises
    ------
    ValueError
        For a damaged checkpoint, and for one with other settings or batches.
    """

    def __init__(
        self,
        module: nn.Module,
        step: StepFunction,
        batches: Batches,
        config: TrainConfig,
        out_dir: Path,
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
        state = load_checkpoint(out_dir)
        if state is not None:
            self._restore(state)
        self.log = StepLog(out_dir, self.step)

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0..1."""
        return self.config.progress(self.step, self.elapsed_s)

    def run(self) -> list[TrainRecord]:
        """Train until the budget is spent or ``should_stop`` says so, and return the records of the log."""
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
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.window.metrics.add({**metrics, "loss": (loss.detach(), 1), "grad_norm": (norm, 1)})
        seconds = time.perf_counter() - started
        self._count(batch.tokens, seconds)
        self.hooks.about(self.step)(f"step {self.step}, {seconds:.1f} s")

    def _count(self, tokens: int, seconds: float) -> None:
        self.step, self.tokens, self.window.tokens = self.step + 1, self.tokens + tokens, self.window.tokens + tokens
        self._spend(seconds)

    def _spend(self, seconds: float) -> None:
        self.elapsed_s, self.window.seconds = self.elapsed_s + seconds, self.window.seconds + seconds

    def _record(self) -> None:
        asked = time.perf_counter()
        means = self.window.metrics.means()
        self._spend(time.perf_counter() - asked)  # a GPU is behind the host by many steps
        record: TrainRecord = {"step": self.step, "tokens": self.tokens, "progress": self.progress, "elapsed_s": self.elapsed_s}
        record |= means
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
        both = describe_differences(state.get("settings", {}), self.settings)
        if both:
            raise ValueError(f"{self.out_dir} holds a run of other settings ({both}): use another directory, or delete it")
        for name in ("module", "optimizer", "batches"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.tokens, self.elapsed_s = state["step"], state["tokens"], state["elapsed_s"]
        window = state["window"]
        self.window = _Window(MetricSums(window["metrics"]), window["tokens"], window["seconds"])
        torch.set_rng_state(state["rng"])


def make_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Make an AdamW that decays matrices only.

    Norms and biases (vectors) and embeddings (which may be tied to the output matrix) have no weight decay.
    """
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in embeddings]
    rest = [p for p in trained if p.ndim <= 1 or id(p) in embeddings]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, fused=True)


@contextmanager
def training_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put the module into training or evaluation mode; restore its mode on exit."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)
