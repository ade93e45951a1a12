"""Paired replay: all backends answer the same recorded prompts in turn (A B A B), with a fixed number of decoded tokens.

Latencies are thus compared on the same work, and a machine that is slow for a while slows all backends.

Each backend answers a prompt with one token before it is timed on it, so that kernels for its shape exist. Matrix libraries build
them on first use and all backends of a process share them, so the first backend alone would otherwise pay for them. A backend must
not reuse the KV cache of an earlier prompt, or its timed answer would skip the prefill.

A line of ``replay.jsonl`` holds one prompt with the measurements of all backends, so a killed run leaves only complete pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from agents.recorded_prompts import RecordedPrompt
from agents.runner import MakeBackend
from benchmarks.backends.models import ceiling_of
from planner import Generation, PlannerBackend, Sampling

REPLAY_FILE = "replay.jsonl"
OnPrompt = Callable[[], None]
log = structlog.get_logger(__name__)


class Measured(BaseModel):
    """The measurement of one backend on one prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: int
    """Length of the prompt in tokens."""
    new_tokens: int
    """Number of decoded tokens."""
    dropped_tokens: int
    """Number of prompt tokens that do not reach the last layer."""
    ttft_s: float
    """Time to first token, in seconds."""
    decode_s: float
    """Time from the first token to the last, in seconds."""
    total_s: float
    """Time for the whole answer, in seconds."""
    kv_bytes: int
    """Size of the prompt's KV cache, in bytes."""
    ceiling: float | None
    """Largest speedup of prefill that the dropped tokens allow, as a ratio; ``None`` where it is not known."""


class ReplayRow(BaseModel):
    """One prompt, measured on each backend: a line of ``replay.jsonl``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_id: str
    """Gymnasium id of the environment."""
    seed: int
    """Seed of the episode."""
    replan: int
    """Number of the replan within its episode, from 0."""
    measured: dict[str, Measured]
    """Measurements by spec string."""

    @property
    def key(self) -> tuple[str, int, int]:
        """The key of the prompt, (env_id, seed, replan), as in ``RecordedPrompt.key``."""
        return self.env_id, self.seed, self.replan


def spread_over_lengths(prompts: Sequence[RecordedPrompt], limit: int) -> list[RecordedPrompt]:
    """Choose prompts of all lengths.

    Parameters
    ----------
    prompts : sequence of RecordedPrompt
        The prompts to choose from.
    limit : int
        Largest number of prompts to return.

    Returns
    -------
    list of RecordedPrompt
        Prompts at evenly spaced indices of the list sorted by length, the shortest and the longest included.
    """
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
    """Measure each prompt on each backend.

    Each backend first answers the longest prompt once, as a warm-up. Prompts that the file has for all backends are skipped.

    Parameters
    ----------
    prompts : sequence of RecordedPrompt
        The prompts to replay.
    backends : sequence of str
        Spec strings.
    make_backend : MakeBackend
        Makes a backend from its spec string.
    path : Path
        The ``replay.jsonl`` that rows are appended to.
    decoded_tokens : int
        Tokens to decode per prompt.
    on_prompt : callable, optional
        Called once per prompt when all backends are measured, also for skipped prompts.

    Returns
    -------
    list of ReplayRow
        One per prompt; rows from the file come first.

    Raises
    ------
    ValueError
        For a malformed file. Errors of the backends are passed on.
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
        backend.generate(max(todo, key=lambda p: p.prompt_tokens).prompt, sampling)  # warm-up, not timed
    for prompt in todo:
        rows.append(_measure(prompt, made, sampling))
        _append(path, rows[-1])
        on_prompt()
    return rows


def read_rows(path: Path) -> list[ReplayRow]:
    """Read a ``replay.jsonl``. A last line that a kill left incomplete is removed from the file.

    Parameters
    ----------
    path : Path
        The file. A file that does not exist has no rows.

    Returns
    -------
    list of ReplayRow
        The latest row of each prompt.

    Raises
    ------
    ValueError
        For a malformed line; the message names it.
    """
    if not path.exists():
        return []
    whole, newline, torn = path.read_text().rpartition("\n")
    if torn:
        log.warning("removed a line that was cut short", path=str(path))
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
        backend.generate(prompt.prompt, replace(sampling, max_new_tokens=1))  # builds the kernels for its shapes; not timed
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
