"""What pruning changes at the replans of recorded episodes: rows of what was measured, and their sums by reason for the replan."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.comparison.metrics import Interval, bootstrap_interval
from planner import ReplanReason

EVERY = "all"
"""Name of the rows over all replans."""


class Answered(BaseModel):
    """What one backend did at a replan: loss of the recorded plan (nats per token), its own plan, mean kept share of the prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: float
    plan: str
    kept_share: float


class ReplanRow(BaseModel):
    """One replan, with what each backend did, by spec string."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_id: str
    seed: int
    replan: int
    reason: ReplanReason
    prompt_tokens: int
    answered: dict[str, Answered]


@dataclass(frozen=True)
class Fidelity:
    """What one backend changes at replans of one reason.

    Attributes
    ----------
    backend
        Its spec string.
    reason
        Why was replanned; ``EVERY`` for all.
    replans
        Number of replans.
    kept_share
        Share of a prompt that a layer holds, mean over layers and replans.
    loss_rise
        Loss of the recorded plans minus the first backend's, mean over replans, in nats per token.
    loss_rise_ci95
        Its 95% interval, from resampled episodes.
    same_plan, same_first_line
        Share of replans whose greedy plan, and whose first line, is the first backend's.
    """

    backend: str
    reason: str
    replans: int
    kept_share: float
    loss_rise: float
    loss_rise_ci95: Interval
    same_plan: float
    same_first_line: float


def read_rows(path: Path, backends: Sequence[str]) -> list[ReplanRow]:
    """Read the complete lines of a file of rows; none where there is no file.

    Raises
    ------
    ValueError
        For a line that is no row, and for rows of other backends.
    """
    rows = []
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(ReplanRow.model_validate_json(line))
        except ValidationError as error:
            raise ValueError(f"{path}, line {number} is no row ({error.errors()[0]['msg']}): use another --out") from error
        if sorted(rows[-1].answered) != sorted(backends):
            raise ValueError(f"{path} holds rows of {', '.join(rows[-1].answered)}: give these backends, or use another --out")
    return rows


def fidelities(rows: Sequence[ReplanRow], backends: Sequence[str]) -> list[Fidelity]:
    """Sum up, backend by backend and reason by reason, the commonest reason first and all replans before it."""
    reasons: list[str] = sorted({row.reason for row in rows}, key=lambda reason: -sum(row.reason == reason for row in rows))
    groups = {EVERY: list(rows)} | {reason: [row for row in rows if row.reason == reason] for reason in reasons}
    return [_sum_up(group, backend, backends[0], reason) for backend in backends for reason, group in groups.items() if group]


def _sum_up(rows: Sequence[ReplanRow], backend: str, first: str, reason: str) -> Fidelity:
    pairs = [(row.answered[backend], row.answered[first]) for row in rows]
    rises: dict[tuple[str, int], list[float]] = {}
    for row, (mine, other) in zip(rows, pairs, strict=True):
        rises.setdefault((row.env_id, row.seed), []).append(mine.loss - other.loss)
    return Fidelity(
        backend,
        reason,
        len(rows),
        fmean(mine.kept_share for mine, _ in pairs),
        fmean(rise for episode in rises.values() for rise in episode),
        bootstrap_interval([fmean(episode) for episode in rises.values()]),
        fmean(mine.plan == other.plan for mine, other in pairs),
        fmean(_first_line(mine.plan) == _first_line(other.plan) for mine, other in pairs),
    )


def _first_line(plan: str) -> str:
    return plan.partition("\n")[0].strip()
