"""The record of one measured schedule, and the choice of the schedule to recommend."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StagePoint:
    """One schedule measured on all prompts, compared with no pruning.

    Attributes
    ----------
    selector
        Name of the selector.
    share
        The mean kept share that was asked for, 0 to 1.
    first
        Layer after which the first stage comes.
    stages
        All layers with a stage, as backend specs write them.
    keep
        Keep ratio of every stage.
    kept_share
        Share of a prompt's tokens that entered a layer: mean over layers, then over prompts.
    final_share
        Share that entered the last layer, mean over prompts.
    kv_share
        Bytes of keys and values after the prefill / bytes without pruning, mean over prompts.
    ttft_ceiling
        FLOPs of all unpruned prefills / FLOPs of the pruned ones: the largest speedup of the first token. Its inverse is the
        predicted cost.
    loss
        Cross-entropy of the given answers: mean over an answer's tokens, then over prompts, in nats.
    loss_diff
        ``loss`` minus that of the unpruned model.
    loss_diff_ci95
        Its 95% bootstrap interval over prompts.
    same_plan, same_first_line
        Share of prompts whose greedy answer, or its first line, equals that of the unpruned model.
    same_tokens
        Share of equal tokens of the greedy answers, mean over prompts.
    loss_diffs
        ``loss_diff`` of each prompt, in order.
    """

    selector: str
    share: float
    first: int
    stages: str
    keep: float
    kept_share: float
    final_share: float
    kv_share: float
    ttft_ceiling: float
    loss: float
    loss_diff: float
    loss_diff_ci95: tuple[float, float]
    same_plan: float
    same_first_line: float
    same_tokens: float
    loss_diffs: tuple[float, ...] = ()

    @property
    def place(self) -> tuple[str, float, int, str]:
        """Selector, share, first stage and all stages, by which a point is known."""
        return self.selector, self.share, self.first, self.stages

    def holds(self, tolerance: float) -> bool:
        """Tell whether the upper end of the loss difference's interval is within ``tolerance`` nats per token."""
        return self.loss_diff_ci95[1] <= tolerance


def recommend(points: Iterable[StagePoint], tolerance: float) -> StagePoint | None:
    """Choose the schedule to recommend among points of one selector.

    Of each kept share it takes the earliest first stage that holds (``StagePoint.holds``), and of these the one with the lowest
    predicted cost.

    Parameters
    ----------
    points
        The measured schedules.
    tolerance
        The most that the loss may rise, in nats per token.

    Returns
    -------
    StagePoint or None
        The choice; ``None`` where no schedule holds.
    """
    earliest: dict[float, StagePoint] = {}
    for point in sorted(points, key=lambda point: (point.share, point.first)):
        if point.holds(tolerance):
            earliest.setdefault(point.share, point)
    return max(earliest.values(), key=lambda point: point.ttft_ceiling, default=None)


def explain(points: Sequence[StagePoint], floor: Sequence[StagePoint], tolerance: float) -> str:
    """Say in words what ``recommend`` chose among ``points``, and whether random scores (``floor``) would hold there too."""
    chosen = recommend(points, tolerance)
    if chosen is None:
        return _nothing_holds(points, tolerance)
    low, high = chosen.loss_diff_ci95
    earlier = [p.first for p in points if p.share == chosen.share and p.first < chosen.first]
    text = (
        f"At a kept share of {chosen.share:.0%} the first stage after layer {chosen.first} is the earliest that holds: the loss on "
        f"plans changes by {chosen.loss_diff:+.4f} nats per token [{low:+.4f}, {high:+.4f}], and {tolerance:g} are allowed"
    )
    text += f" (after {layers_text(earlier)} it does not)." if earlier else "."
    text += (
        f" Of the shares at which a schedule holds it has the lowest predicted cost: a TTFT ceiling of {chosen.ttft_ceiling:.2f}x"
    )
    text += f" and {chosen.kv_share:.0%} of the KV cache."
    return f"{text} {_floor(chosen, floor, tolerance)}".strip()


def beside_floor(points: Iterable[StagePoint], floor: Iterable[StagePoint]) -> list[tuple[StagePoint, list[float]]]:
    """Pair points with those of random scores at the same schedule.

    Returns
    -------
    list of (StagePoint, list of float)
        Each point that has a partner, and by how much more random scores lose on each prompt, in nats per token.
    """
    partners = {point.place[1:]: point for point in floor}
    pairs = [(point, partners[point.place[1:]]) for point in points if point.place[1:] in partners]
    return [
        (point, [other - own for own, other in zip(point.loss_diffs, partner.loss_diffs, strict=True)]) for point, partner in pairs
    ]


def _floor(chosen: StagePoint, floor: Sequence[StagePoint], tolerance: float) -> str:
    same = next((point for point in floor if point.place[1:] == chosen.place[1:]), None)
    if same is None:
        return ""
    if same.holds(tolerance):
        return f"Random scores hold there too ({same.loss_diff:+.4f}): at this place the schedule tests no scorer."
    return f"Random scores do not hold there ({same.loss_diff:+.4f}): the scorer is what holds it."


def _nothing_holds(points: Sequence[StagePoint], tolerance: float) -> str:
    if not points:
        return "No schedule was measured."
    best = min(points, key=lambda point: point.loss_diff_ci95[1])
    low, high = best.loss_diff_ci95
    found = f"{best.loss_diff:+.4f} [{low:+.4f}, {high:+.4f}]"
    return (
        f"No schedule holds within {tolerance:g} nats per token. The nearest is a first stage after layer {best.first} at a kept "
        f"share of {best.share:.0%}: {found}. Try a larger --share, more prompts for a narrower interval, or a larger --tolerance."
    )


def layers_text(layers: Sequence[int]) -> str:
    """Write layers in words: ``layer 1``, ``layers 1, 2``."""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
