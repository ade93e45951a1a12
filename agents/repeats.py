"""Going round in circles: which observation has led to which plan, and how often."""

from collections import Counter

PATIENCE = 3
"""How often the same plan may follow the same observation before the planner is told. A failure by chance deserves another try."""


class Repeats:
    """The plans of one episode by the observation that they followed."""

    def __init__(self) -> None:
        self._plans: dict[str, Counter[str]] = {}

    def note(self, observation: str, plan: str) -> None:
        """Remember that the observation led to the plan."""
        self._plans.setdefault(observation, Counter())[plan] += 1

    def advice(self, observation: str) -> str | None:
        """Return what to tell the planner where one plan keeps leading back to this observation; ``None`` elsewhere.

        Every text counts, what the plan before it led to included, so two observations are the same only if nothing has changed.
        """
        plan, times = max(self._plans.get(observation, Counter()).items(), key=lambda item: item[1], default=("", 0))
        if times < PATIENCE:
            return None
        return f"Nothing has changed: {times} times this plan led back to the same observation: {plan}. Plan something else."
