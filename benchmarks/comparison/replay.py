"""Paired replay: recorded prompts are fed to each backend in turn (A B A B), with a fixed number of decoded tokens.

So latencies are compared on identical work, and what slows the machine down for a while slows both sides. Right before it is timed
a backend answers the same prompt with one token: matrix libraries make a kernel for each number of rows they have not met, which
the backends share, and the first one would pay for all. Backends must not remember prompts, or they would be timed on memories.
One line of ``replay.jsonl`` holds one prompt with the measurements of all backends: a kill loses a whole pair, never half of one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from agents.replay import RecordedPrompt
from agents.runner import MakeBackend
from benchmarks.backends.models import ceiling_of
from planner import Generation, PlannerBackend, Sampling

REPLAY_FILE = "replay.jsonl"
OnPrompt = Callable[[], None]
log = structlog.get_logger(__name__)


class Measured(BaseModel):
    """One backend on one prompt. ``ceiling`` is the most that its dropped tokens could have gained in prefill."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: int
    new_tokens: int
    dropped_tokens: int
    ttft_s: float
    decode_s: float
    total_s: float
    kv_bytes: int
    ceiling: float | None


class ReplayRow(BaseModel):
    """One prompt, measured on each backend (by spec string)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_id: str
    seed: int
    replan: int
    measured: dict[str, Measured]

    @property
    def key(self) -> tuple[str, int, int]:
        """Which prompt this is."""
        return self.env_id, self.seed, self.replan


def spread_over_lengths(prompts: Sequence[RecordedPrompt], limit: int) -> list[RecordedPrompt]:
    """At most ``limit`` prompts, evenly spread over the prompts sorted by length, both ends included."""
    ordered = sorted(prompts, key=lambda p: (p.prompt_tokens, *p.key))
    if len(ordered) <= limit:
        return ordered
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, limit).round().astype(int)]


def replay(
    prompts: Sequence[RecordedPrompt],
    backends: Sequence[str],
    make_backend: MakeBackend,
    path: Path,
    decoded_tokens: int,
    on_prompt: OnPrompt = lambda: None,
) -> list[ReplayRow]:
    """Measure ``prompts`` on ``backends``, append the rows to ``path``, and return them, those found in ``path`` first.

    Prompts that ``path`` already has for all of the backends are skipped. Each backend answers the longest prompt once before
    anything is timed, and each prompt with one token before it is timed on it. Raises ``ValueError`` for a malformed ``path``, and
    whatever the backends raise.
    """
    wanted = {p.key for p in prompts}
    rows = [row for row in read_rows(path) if row.key in wanted and set(backends) <= set(row.measured)]
    measured = {row.key for row in rows}
    todo = [p for p in prompts if p.key not in measured]
    for _ in rows:
        on_prompt()
    if not todo:
        return rows
    sampling = Sampling(max_new_tokens=decoded_tokens, ignore_eos=True)
    made = {spec: make_backend(spec) for spec in backends}
    for backend in made.values():
        backend.generate(max(todo, key=lambda p: p.prompt_tokens).prompt, sampling)  # warm-up, not counted
    for prompt in todo:
        rows.append(_measure(prompt, made, sampling))
        _append(path, rows[-1])
        on_prompt()
    return rows


def read_rows(path: Path) -> list[ReplayRow]:
    """The rows of a ``replay.jsonl``, the latest for each prompt; a last line torn by a kill is cut off."""
    if not path.exists():
        return []
    whole, newline, torn = path.read_text().rpartition("\n")
    if torn:
        log.warning("dropped a torn last line", path=str(path))
        path.write_text(whole + newline)
    rows = (_parse(line, number, path) for number, line in enumerate(whole.splitlines(), 1))
    return list({row.key: row for row in rows}.values())


def _parse(line: str, number: int, path: Path) -> ReplayRow:
    try:
        return ReplayRow.model_validate_json(line)
    except ValidationError as error:
        raise ValueError(f"{path}, line {number}: {error.errors()[0]['msg']}; remove the line or the file") from error


def _append(path: Path, row: ReplayRow) -> None:
    with path.open("a") as file:
        file.write(row.model_dump_json() + "\n")


def _measure(prompt: RecordedPrompt, backends: Mapping[str, PlannerBackend], sampling: Sampling) -> ReplayRow:
    measured = {}
    for spec, backend in backends.items():
        backend.generate(prompt.prompt, replace(sampling, max_new_tokens=1))  # the prompt's lengths, not counted
        answer = backend.generate(prompt.prompt, sampling)
        measured[spec] = _measured(answer, ceiling_of(backend, answer))
    return ReplayRow(env_id=prompt.env_id, seed=prompt.seed, replan=prompt.replan, measured=measured)


def _measured(answer: Generation, ceiling: float | None) -> Measured:
    return Measured(
        prompt_tokens=answer.prompt_tokens,
        new_tokens=answer.new_tokens,
        dropped_tokens=answer.dropped_tokens,
        ttft_s=answer.ttft_s,
        decode_s=answer.decode_s,
        total_s=answer.total_s,
        kv_bytes=answer.kv_bytes,
        ceiling=ceiling,
    )
