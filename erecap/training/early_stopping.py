"""Early stopping: save the model with the lowest held-out loss, and end the run when the loss stops falling."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from erecap.training.loop import Hooks, TrainRecord


class EarlyStopping:
    """A record of the best held-out loss so far, and of the number of evaluations since.

    Parameters
    ----------
    save
        Called at each new best.
    patience
        Evaluations without a new best after which to stop; ``None`` for never.

    Raises
    ------
    ValueError
        For a patience below 1.
    """

    def __init__(self, save: Callable[[], object], patience: int | None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience} must be at least 1 evaluation: leave it out to train to the end")
        self._save, self._patience = save, patience
        self.best, self._since = math.inf, 0

    def resume(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count the evaluations in the log of a resumed run. Their best model has been saved already."""
        for record in records:
            if "eval" in record:
                self._better(record["eval"]["loss"])

    def hooks(self, told: Hooks, evaluate: Callable[[int], TrainRecord]) -> Hooks:
        """Return ``told`` with ``evaluate`` as its evaluation; the run then also stops where ``stop`` says so."""

        def on_eval(step: int) -> TrainRecord:
            found = evaluate(step)
            self.see(found["loss"])
            return found

        def should_stop() -> bool:
            return self.stop() or (told.should_stop is not None and told.should_stop())

        return replace(told, on_eval=on_eval, should_stop=should_stop)

    def see(self, loss: float) -> None:
        """Record the loss of an evaluation; save if it is the lowest so far."""
        if self._better(loss):
            self._save()

    def stop(self) -> bool:
        """Tell whether to stop now."""
        return self._patience is not None and self._since >= self._patience

    def _better(self, loss: float) -> bool:
        better = loss < self.best
        self.best, self._since = (loss, 0) if better else (self.best, self._since + 1)
        return better
