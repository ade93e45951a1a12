"""Early stopping: keep the best of a run by its held-out loss, and end the run when none better comes."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from erecap.training.loop import Hooks, TrainRecord


class EarlyStopping:
    """The best held-out loss so far, and how many evaluations ago it was.

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
        """Count the evaluations in the log of a resumed run. Their best has been saved already."""
        for record in records:
            if "eval" in record:
                self._better(record["eval"]["loss"])

    def hooks(self, told: Hooks, evaluate: Callable[[int], TrainRecord]) -> Hooks:
        """Return ``told`` with ``evaluate`` as its evaluation, and this as one more reason to stop."""

        def on_eval(step: int) -> TrainRecord:
            found = evaluate(step)
            self.see(found["loss"])
            return found

        def should_stop() -> bool:
            return self.stop() or (told.should_stop is not None and told.should_stop())

        return replace(told, on_eval=on_eval, should_stop=should_stop)

    def see(self, loss: float) -> None:
        """Take the loss of an evaluation; save if it is the best."""
        if self._better(loss):
            self._save()

    def stop(self) -> bool:
        """Tell whether to stop now."""
        return self._patience is not None and self._since >= self._patience

    def _better(self, loss: float) -> bool:
        better = loss < self.best
        self.best, self._since = (loss, 0) if better else (self.best, self._since + 1)
        return better
