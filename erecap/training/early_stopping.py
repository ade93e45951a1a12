"""The best of a run by a held-out loss, and when to stop waiting for a better one."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from erecap.training.loop import Hooks, StepRecord


class EarlyStopping:
    """``save`` is called at each new best; ``stop`` is true after ``patience`` evaluations without one (``None``: never)."""

    def __init__(self, save: Callable[[], object], patience: int | None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience} must be at least 1 evaluation: leave it out to train to the end")
        self._save, self._patience = save, patience
        self.best, self._since = math.inf, 0

    def resume(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count the evaluations in the log of a run that goes on; their best is saved already."""
        for record in records:
            if "eval" in record:
                self._better(record["eval"]["loss"])

    def hooks(self, told: Hooks, evaluate: Callable[[int], StepRecord]) -> Hooks:
        """``told`` with ``evaluate`` as its evaluation, and this as a reason to stop."""

        def on_eval(step: int) -> StepRecord:
            found = evaluate(step)
            self.see(found["loss"])
            return found

        def should_stop() -> bool:
            return self.stop() or (told.should_stop is not None and told.should_stop())

        return replace(told, on_eval=on_eval, should_stop=should_stop)

    def see(self, loss: float) -> None:
        """Take the loss of an evaluation."""
        if self._better(loss):
            self._save()

    def stop(self) -> bool:
        """Whether to stop now."""
        return self._patience is not None and self._since >= self._patience

    def _better(self, loss: float) -> bool:
        better = loss < self.best
        self.best, self._since = (loss, 0) if better else (self.best, self._since + 1)
        return better
