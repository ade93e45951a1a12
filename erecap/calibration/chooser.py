"""The schedule and selector that a prompt gets from a backend with a latency budget.

The choice depends on the prompt and the cost model alone. It reads no clock, so that a run gives the same plans however busy the
machine is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from erecap.calibration.cost_model import CostModel
from erecap.engine.selector_protocol import Selector
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule


@dataclass(frozen=True)
class ChosenSchedule:
    """How one prompt is pruned. The last three are ``None`` where no budget was given.

    Attributes
    ----------
    schedule
        Where tokens are dropped and how many.
    selector
        Scores the tokens; ``None`` without stages.
    budget_s
        Seconds that the replan may take.
    predicted_s
        Seconds that 9 of 10 such replans are predicted to take at most.
    budget_met
        Whether the prediction is within the budget.
    """

    schedule: PruneSchedule
    selector: Selector | None = None
    budget_s: float | None = None
    predicted_s: float | None = None
    budget_met: bool | None = None


UNPRUNED = ChosenSchedule(PruneSchedule.none())


class BudgetChooser:
    """A choice of the least pruning with which 9 of 10 replans are predicted to stay within a budget.

    Where no schedule meets the budget, the cheapest one is taken and marked as such: a late plan is better than none.

    Parameters
    ----------
    cost
        Predicts the seconds of a replan.
    budget_s
        Seconds that a replan may take.
    stages
        Layers after which the selectors can score; ``None`` for all but the last.
    make_selector
        Makes the selector for a schedule.
    """

    def __init__(
        self,
        cost: CostModel,
        budget_s: float,
        stages: Sequence[int] | None,
        make_selector: Callable[[PruneSchedule], Selector],
    ) -> None:
        self._cost, self._budget_s, self._stages = cost, budget_s, stages
        self._make_selector = lru_cache(maxsize=256)(make_selector)

    def __call__(self, prompt: TokenizedPrompt) -> ChosenSchedule:
        """Choose for ``prompt``. Takes about a millisecond, which counts in TTFT."""
        depth, price = self._cost.setting.model.num_layers, self._cost.late_replan_s
        choice = PruneSchedule.choose(depth, price, self._budget_s, prompt.protected, self._stages)
        return ChosenSchedule(choice.schedule, self._make_selector(choice.schedule), self._budget_s, choice.cost, choice.met)
