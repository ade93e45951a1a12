"""The keep ratios that batches of a pruner's training draw.

A keep ratio holds at each stage and compounds. Between 0.3 and 0.9 at 8 stages, half of the draws leave less than 2% of a prompt in
the last layer, and the lowest leaves nothing, where no scorer can be better than another. Ratios that are drawn by what is left in
the last layer ask the same of a model with many stages as of one with few.
"""

from dataclasses import dataclass

BY = ("final", "keep")
"""What the bounds are: "final", the share of a long prompt that enters the last layer, or "keep", the share kept at each stage."""

_NAMES = {"final": "final_share", "keep": "keep"}


@dataclass(frozen=True)
class Ratios:
    """A range of keep ratios.

    Attributes
    ----------
    lowest, highest
        The bounds, in (0, 1].
    by
        What the bounds are, one of ``BY``.

    Raises
    ------
    ValueError
        For bounds out of range or order, and for an unknown ``by``.
    """

    lowest: float
    highest: float
    by: str = "final"

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise ValueError(f"by={self.by!r} is not known: choose from {', '.join(BY)}")
        if not 0 < self.lowest <= self.highest <= 1:
            what = "shares that enter the last layer" if self.by == "final" else "keep ratios"
            raise ValueError(f"{what} from {self.lowest} to {self.highest}: give 0 < lowest <= highest <= 1")

    @classmethod
    def parse(cls, text: str, by: str) -> "Ratios":
        """Read ``0.05-0.6`` or ``0.3`` as a range. Raise ``ValueError`` for other text."""
        lowest, dash, highest = text.partition("-")
        try:
            bounds = float(lowest), float(highest if dash else lowest)
        except ValueError as error:
            raise ValueError(f"{_NAMES[by]}={text!r} is no number and no range: write it like 0.3 or 0.05-0.6") from error
        return cls(*bounds, by)

    def at(self, place: float, num_stages: int) -> float:
        """Return the keep ratio of each of ``num_stages`` stages at ``place``: 0 is the lower bound, 1 the upper one."""
        value = self.lowest + (self.highest - self.lowest) * place
        return value if self.by == "keep" or not num_stages else min(1.0, value ** (1 / num_stages))
