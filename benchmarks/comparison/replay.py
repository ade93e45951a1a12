"""Paired replay: all backends answer the same recorded prompts in turn (A B A B), with a fixed number of decoded tokens.

Latencies are thus compared on the same work, and a machine that is slow for a while slows all backends.

Each backend answers a prompt with one token before it is timed on it, so that kernels for its shape exist. Matrix libraries build
them on first use and all backends of a process share them, so the first backend alone would otherwise pay for them. A backend that
keeps the KV cache of earlier prompts would skip the prefill in its timed answer: comparisons with such backends use
``episode_replay``.

A line of ``replay.jsonl`` holds one prompt with the measurements of all backends, so a killed run leaves only complete pairs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from agents.append_only import AppendOnlyFile
from agents.json_lines import Line, digest_of, read_lines
from agents.recorded_prompts import RecordedPrompt
from agents.runner import MakeBackend
from benchmarks.backends.models import ceiling_of
from planner import Generation, ObservingBackend, PlannerBackend, Sampling, StatefulBackend, before_observation

REPLAY_FILE = "replay.jsonl"
_START = b'{"env_id":"'  # of every row
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
    reused_tokens: int = 0
    """Number of prompt tokens taken from the KV cache of earlier prompts; 0 in older rows."""
    forward_passes: int = 0
    """Number of forward passes of the answer: fewer than tokens where drafts were accepted; 0 in older rows."""
    observe_s: float = 0.0
    """Seconds in which the history was taken in before the replan, as while the agent acts. They are in none of the other times."""


class ReplayRow(BaseModel):
    """One prompt, measured on each backend: a line of ``replay.jsonl``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_id: str
    """Gymnasium id of the environment."""
    seed: int
    """Seed of the episode."""
    replan: int
    """Number of the replan within its episode, from 0."""
    prompt: str = ""
    """Digest of the prompt; empty in older rows, which do not say whose prompt they measured and are measured again."""
    measured: dict[str, Measured]
    """Measurements by spec string."""
    digest: str = ""
    """Digest of the row, by which a changed file is known; empty in older rows."""

    @property
    def key(self) -> tuple[str, int, int, str]:
        """The key of the prompt, as in ``RecordedPrompt.key``."""
        return self.env_id, self.seed, self.replan, self.prompt

    @property
    def line(self) -> bytes:
        """The row as a line of the file."""
        return self.model_dump_json().encode() + b"\n"


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
    rows = measured_rows(prompts, backends, path)
    measured = {row.key for row in rows}
    todo = [p for p in prompts if p.key not in measured]
    for _ in rows:
        on_prompt()
    if not todo:
        return rows
    sampling = Sampling(max_new_tokens=decoded_tokens, ignore_eos=True)
    with AppendOnlyFile(path) as file:
        close_last_line(path, file)
        made = {spec: make_backend(spec) for spec in backends}
        for backend in made.values():
            backend.generate(max(todo, key=lambda p: p.prompt_tokens).prompt, sampling)  # warm-up, not timed
        for prompt in todo:
            rows.append(measure(prompt, made, sampling))
            file.append(rows[-1].line)
            on_prompt()
    return rows


def measured_rows(prompts: Sequence[RecordedPrompt], backends: Sequence[str], path: Path) -> list[ReplayRow]:
    """Return the rows of ``path`` that measured one of ``prompts`` on all of ``backends``."""
    return rows_of(prompts, [row for row in read_rows(path) if set(backends) <= set(row.measured)])


def rows_of(prompts: Sequence[RecordedPrompt], rows: Sequence[ReplayRow]) -> list[ReplayRow]:
    """Return the rows that measured one of ``prompts``, and not another prompt of the same episode and replan."""
    wanted = {prompt.key for prompt in prompts}
    return [row for row in rows if row.key in wanted]


def read_rows(path: Path) -> list[ReplayRow]:
    """Read a ``replay.jsonl``. A last line that a kill left incomplete is left out.

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
        For a malformed or changed line; the message names it.
    """
    rows = [_parse(line, path) for line in read_lines(path) if not _is_torn(line)]
    return list({row.key: row for row in rows}.values())


def _parse(line: Line, path: Path) -> ReplayRow:
    try:
        row = ReplayRow.model_validate_json(line.text)
        if row.digest and row.digest != digest_of([line.text]):
            raise ValueError("the row was changed after it was written")
    except ValueError as error:  # pydantic's is one too
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ValueError(
            f"{path}, line {line.number}: {problem}. Nothing was changed. Choose another directory; or keep a copy of the file and "
            "remove this line, if it is a row of a replay: the same command then measures its prompt again"
        ) from error
    return row


def _is_torn(line: Line) -> bool:
    if line.whole or not line.is_torn(_START):
        return False
    try:
        ReplayRow.model_validate_json(line.text)
    except ValidationError:
        return True
    return False


def close_last_line(path: Path, file: AppendOnlyFile) -> None:
    """Make the file end with a whole line; what a kill left of a row is moved aside."""
    last = next(iter(read_lines(path)[-1:]), None)
    if last is not None and _is_torn(last):
        log.warning("moved a row that was cut short aside", path=str(path), to=str(file.move_tail_aside(last.begin)))
    elif last is not None and not last.whole:
        file.append(b"\n")


def measure(prompt: RecordedPrompt, backends: Mapping[str, PlannerBackend], sampling: Sampling, observe: bool = False) -> ReplayRow:
    """Let each backend answer a prompt. One that keeps nothing answers it with one token first, which is not timed.

    With ``observe``, one that can takes in the history first, as while the agent acts (``let_observe``).
    """
    measured = {}
    for spec, backend in backends.items():
        observe_s = let_observe(backend, prompt) if observe else 0.0
        if not isinstance(backend, StatefulBackend):
            backend.generate(prompt.prompt, replace(sampling, max_new_tokens=1))  # builds the kernels for its shapes
        answer = backend.generate(prompt.prompt, sampling)
        measured[spec] = _measured(answer, ceiling_of(backend, answer), observe_s)
    row = ReplayRow(env_id=prompt.env_id, seed=prompt.seed, replan=prompt.replan, prompt=prompt.digest, measured=measured)
    return row.model_copy(update={"digest": digest_of([row.model_dump_json()])})


def let_observe(backend: PlannerBackend, prompt: RecordedPrompt) -> float:
    """Let a backend that can take in a prompt as it was before its latest observation. Return the seconds that it took."""
    earlier = before_observation(prompt.prompt)
    if earlier is None or not isinstance(backend, ObservingBackend):
        return 0.0
    begin = time.perf_counter()
    backend.observe(earlier)
    return time.perf_counter() - begin


def _measured(answer: Generation, ceiling: float | None, observe_s: float) -> Measured:
    return Measured(
        prompt_tokens=answer.prompt_tokens,
        new_tokens=answer.new_tokens,
        dropped_tokens=answer.dropped_tokens,
        ttft_s=answer.ttft_s,
        decode_s=answer.decode_s,
        total_s=answer.total_s,
        kv_bytes=answer.kv_bytes,
        ceiling=ceiling,
        reused_tokens=answer.reused_tokens,
        forward_passes=answer.forward_passes,
        observe_s=observe_s,
    )
