"""The measurement of `erecap bench-replans`: the loss of each recorded plan, and each backend's own greedy plan.

Each prompt comes after its predecessors, as when the episode was played. A backend that keeps keys and values between replans so
meets each prompt with the verdicts of earlier turns, made under the goals of their time. A stateless one judges all tokens anew.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from agents.append_only import AppendOnlyFile
from agents.recorded_prompts import RecordedPrompt, by_episode
from agents.records import PlannerCall
from benchmarks.comparison.fidelity import Answered, ReplanRow, read_rows
from benchmarks.comparison.replay import close_last_line
from benchmarks.recipes.first_stage.cases import recorded_case
from erecap.backend import LocalBackend
from planner import Sampling, StatefulBackend


def measure_replans(
    prompts: Sequence[RecordedPrompt],
    calls: Iterable[PlannerCall],
    backends: Mapping[str, LocalBackend],
    max_new_tokens: int,
    path: Path,
    on_replan: Callable[[], None] = lambda: None,
) -> list[ReplanRow]:
    """Measure all replans whose answer is a whole plan. Episodes that the file has are skipped.

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
    whole = {(call.env_id, call.seed, call.replan): call for call in calls if call.is_whole}
    rows = read_rows(path, list(backends))
    known = {(row.env_id, row.seed) for row in rows}
    with AppendOnlyFile(path) as file:
        close_last_line(path, file)
        for episode in by_episode(prompts):
            if (episode[0].env_id, episode[0].seed) not in known:
                made = [_measure(p, whole.get((p.env_id, p.seed, p.replan)), backends, max_new_tokens, on_replan) for p in episode]
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
    """Let all backends read one prompt; ``None`` where its answer was no whole plan."""
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
