"""The schedule and selector that a backend with a latency budget chooses for a prompt.

The choice depends on the prompt and the cost model alone. It reads no clock, so a run gives the same plans on a busy machine as on
an idle one.
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
    """The pruning of one prompt. Without a budget, the last three fields are ``None``.

    Attributes
    ----------
    schedule
        Where tokens are dropped and how many.
    selector
        Scores the tokens; ``None`` without stages.
    budget_s
        Seconds that the replan may take.
    predicted_s
        Predicted 90th percentile of the replan latency, in seconds.
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
    """A function that chooses the least pruning whose predicted 90th percentile of the replan latency is within a budget.

    If no schedule meets the budget, it chooses the cheapest one and sets ``budget_met`` to false: a late plan is better than none.

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
