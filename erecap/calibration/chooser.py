"""Which schedule and selector a prompt gets from a backend with a latency budget.

A function of the prompt and the cost model alone. The clock is not asked, so that a run gives the same plans however busy the
machine is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from erecap.calibration.cost_model import CostModel
from erecap.calibration.search import choose_schedule
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule.schedule import PruneSchedule
from erecap.selectors import Selector


@dataclass(frozen=True)
class ChosenSchedule:
    """How one prompt is pruned; where that was chosen for a budget, what was predicted. Times in seconds."""

    schedule: PruneSchedule
    selector: Selector | None = None
    budget_s: float | None = None
    predicted_s: float | None = None
    budget_met: bool | None = None


UNPRUNED = ChosenSchedule(PruneSchedule.none())


class BudgetChooser:
    """The least pruning with which 9 of 10 replans are predicted to take ``budget_s`` at most.

    ``stages`` are the layers after which the selectors of ``make_selector`` can score (default: all but the last layer). A prompt
    that no schedule fits gets the cheapest one, marked as such: a late plan is better than none.
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
        """The choice for ``prompt``. Well under a millisecond: it counts in TTFT."""
        depth, price = self._cost.setting.model.num_layers, self._cost.late_replan_s
        choice = choose_schedule(depth, price, self._budget_s, prompt.protected, self._stages)
        return ChosenSchedule(choice.schedule, self._make_selector(choice.schedule), self._budget_s, choice.cost, choice.met)
