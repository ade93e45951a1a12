"""What pruning changes at the replans of recorded episodes: the loss of the recorded plan, and each backend's own greedy plan.

Each prompt comes after its predecessors, as when the episode was played. A backend that keeps keys and values between replans so
meets each prompt with the verdicts of earlier turns, made under the goals of their time. A stateless one judges all tokens anew.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ConfigDict, ValidationError

from agents.append_only import AppendOnlyFile
from agents.recorded_prompts import RecordedPrompt, by_episode
from agents.records import PlannerCall
from benchmarks.comparison.metrics import Interval, bootstrap_interval
from benchmarks.comparison.replay import close_last_line
from benchmarks.recipes.first_stage.cases import recorded_case
from erecap.backend import LocalBackend
from planner import ReplanReason, Sampling, StatefulBackend

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


def measure_replans(
    prompts: Sequence[RecordedPrompt],
    calls: Iterable[PlannerCall],
    backends: Mapping[str, LocalBackend],
    max_new_tokens: int,
    path: Path,
    on_replan: Callable[[], None] = lambda: None,
) -> list[ReplanRow]:
    """Measure all replans whose plan could be read. Episodes that the file has are skipped.

    Parameters
    ----------
    prompts
        Prompts of whole episodes, those of each episode in order.
    calls
        Their replans.
    backends
        The backends by spec string.
    max_new_tokens
        The most tokens of a greedy plan.
    path
        The file that rows are appended to, an episode at a time.
    on_replan
        Called after each prompt, also for those of skipped episodes.

    Raises
    ------
    ValueError
        For a malformed file, for one of other backends, and for a backend that scores no answers.
    """
    readable = {(c.env_id, c.seed, c.replan): c for c in calls if c.parse_error is None and c.generation.text.strip()}
    rows = read_rows(path, list(backends))
    known = {(row.env_id, row.seed) for row in rows}
    with AppendOnlyFile(path) as file:
        close_last_line(path, file)
        for episode in by_episode(prompts):
            if (episode[0].env_id, episode[0].seed) not in known:
                made = [
                    _measure(p, readable.get((p.env_id, p.seed, p.replan)), backends, max_new_tokens, on_replan) for p in episode
                ]
                found = [row for row in made if row is not None]
                file.append("".join(row.model_dump_json() + "\n" for row in found).encode())
                rows += found
                _forget(backends)
            else:
                for _ in episode:
                    on_replan()
    return rows


def _forget(backends: Mapping[str, LocalBackend]) -> None:
    for backend in backends.values():
        if isinstance(backend, StatefulBackend):
            backend.reset()


def _measure(
    prompt: RecordedPrompt,
    call: PlannerCall | None,
    backends: Mapping[str, LocalBackend],
    max_new_tokens: int,
    on_replan: Callable[[], None],
) -> ReplanRow | None:
    """Let all backends read one prompt; ``None`` where its plan could not be read."""
    answered = {spec: _answer(backend, prompt, max_new_tokens) for spec, backend in backends.items()}
    on_replan()
    if call is None:
        return None
    return ReplanRow(
        env_id=prompt.env_id,
        seed=prompt.seed,
        replan=prompt.replan,
        reason=call.reason,
        prompt_tokens=prompt.prompt_tokens,
        answered=answered,
    )


def _answer(backend: LocalBackend, prompt: RecordedPrompt, max_new_tokens: int) -> Answered:
    case = recorded_case(backend.chat, prompt, backend.loaded.eos_ids)
    loss = backend.answer_loss(case.prompt, case.answer)
    made = backend.generate(prompt.prompt, Sampling(max_new_tokens))
    return Answered(loss=loss, plan=made.text, kept_share=fmean(made.layer_tokens) / made.prompt_tokens)


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
