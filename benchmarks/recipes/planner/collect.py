"""Demonstrations, played in chunks by worker processes. Chunks on disk are not played again."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import active_children
from pathlib import Path

import numpy as np

from agents.demonstrations import Demonstration, Labeller, Sample, demonstrate
from agents.job import EpisodeJob
from agents.loop import AgentConfig
from agents.runner import MakeBackend
from agents.workers import spawn_pool
from benchmarks.output.files import write_atomically
from benchmarks.recipes.planner.config import Source
from benchmarks.recipes.seeds import SEEDS_PER_ROUND
from planner import Entry, PlannerBackend, Sampling

STUDENT_REPLANS = 20
"""Number of replans after which the episode of a student with plans for the whole task ends. If it needs more of them it is stuck,
and what it does later lies beyond the longest sequence that is trained on."""
MAX_NEW_TOKENS = 192
"""Most tokens of an answer. A plan of the expert is shorter; a student that writes more goes round in circles."""


@dataclass(frozen=True)
class RoundPlay:
    """The settings for playing a round's episodes.

    Attributes
    ----------
    number
        Number of the round, from 0.
    noise
        Share of the expert's replans in which a disturbed plan is played instead, 0..1.
    corrections
        Largest number of samples made of an episode's corrections.
    student
        Backend spec of the student; empty where only the expert plays.
    share
        Share of the replans in which the student's plan is played, 0..1.
    stubbornness
        Probability that a disturbed plan that changed nothing is played again, 0..1.
    """

    number: int
    noise: float
    corrections: int
    student: str = ""
    share: float = 0.0
    stubbornness: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """Episodes of one source that one worker plays in a row.

    Attributes
    ----------
    source
        The environment.
    first_seed
        Seed of the first episode; the following episodes have the following seeds.
    episodes
        Number of episodes.
    how
        Settings for playing them.
    path
        File of the samples.
    """

    source: Source
    first_seed: int
    episodes: int
    how: RoundPlay
    path: Path


@dataclass(frozen=True)
class ChunkStats:
    """The outcome of a chunk.

    Attributes
    ----------
    env_id
        The environment.
    episodes, successes
        Number of episodes played, and of those that succeeded.
    plans, agreed
        Number of plans played, and of those that equal the expert's.
    samples
        Number of samples written.
    """

    env_id: str
    episodes: int
    successes: int
    plans: int
    agreed: int
    samples: int


def chunks(sources: Sequence[Source], how: RoundPlay, out: Path, skip_seeds: int = 0) -> list[Chunk]:
    """Divide one round into chunks. Every source has its own seeds, below those of recordings and suites.

    Parameters
    ----------
    sources
        The episodes of the round.
    how
        Settings for playing them.
    out
        Directory of the samples.
    skip_seeds
        Seeds of each source that are left out, from its first.

    Raises
    ------
    ValueError
        For a source with more episodes than it has seeds.
    """
    found: list[Chunk] = []
    seeds = SEEDS_PER_ROUND // max(len(sources), 1)
    for number, source in enumerate(sources):
        if skip_seeds + source.episodes > seeds:
            raise ValueError(
                f"{source.episodes} episodes of {source.env_id} after {skip_seeds} skipped seeds exceed its {seeds} seeds of a "
                "round: ask for fewer episodes, or skip fewer seeds"
            )
        base = how.number * SEEDS_PER_ROUND + number * seeds + skip_seeds
        for start in range(0, source.episodes, source.chunk):
            name = f"{source.env_id.replace('/', '-')}-{source.verbosity}-{source.horizon}-{base + start}.jsonl"
            count = min(source.chunk, source.episodes - start)
            found.append(Chunk(source, base + start, count, how, out / name))
    return found


def play_chunks(
    todo: Sequence[Chunk],
    make_backend: MakeBackend,
    workers: int,
    on_chunk: Callable[[Chunk, ChunkStats], None],
    seconds: float | None = None,
) -> list[Chunk]:
    """Play the chunks that are not on disk yet, and return those that are on disk at the end.

    Parameters
    ----------
    todo
        All chunks of a round.
    make_backend
        Makes the student from its spec, in the worker.
    workers
        Number of processes that play.
    on_chunk
        Called for each finished chunk, first for those on disk.
    seconds
        Most seconds to play. Chunks are then played in a random order, and those unfinished at the end are left out.
    """
    missing = [chunk for chunk in todo if not chunk.path.exists()]
    for chunk in todo:
        if chunk not in missing:
            on_chunk(chunk, read_stats(chunk.path))
    if missing:
        _play_missing(_mixed(missing) if seconds is not None else missing, make_backend, workers, on_chunk, seconds)
    return [chunk for chunk in todo if chunk.path.exists()]


def _mixed(todo: Sequence[Chunk]) -> list[Chunk]:
    """Return the chunks in a random order that is always the same, so that every source has a part of any time."""
    return [todo[i] for i in np.random.default_rng(todo[0].how.number).permutation(len(todo))]


def _play_missing(
    missing: Sequence[Chunk],
    make_backend: MakeBackend,
    workers: int,
    on_chunk: Callable[[Chunk, ChunkStats], None],
    seconds: float | None,
) -> None:
    with spawn_pool(workers) as pool:
        running = {pool.submit(play_chunk, chunk, make_backend): chunk for chunk in missing}
        try:
            for future in as_completed(running, seconds):
                on_chunk(running[future], future.result())
        except TimeoutError:
            _stop(pool)
        except BaseException:
            _stop(pool)
            raise


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers at once, else this process waits for chunks that nobody wants any more."""
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in active_children():
        worker.terminate()


def play_chunk(chunk: Chunk, make_backend: MakeBackend) -> ChunkStats:
    """Play a chunk and write its samples: one JSON line each, the statistics last."""
    seeds = range(chunk.first_seed, chunk.first_seed + chunk.episodes)
    student = make_backend(chunk.how.student) if chunk.how.student else None
    played = [_play_seed(chunk, seed, student) for seed in seeds]
    lines = [line for _, samples in played for line in samples]
    made = [demonstration for demonstration, _ in played]
    successes, plans, agreed = sum(m.episode.success for m in made), sum(m.plans for m in made), sum(m.agreed for m in made)
    stats = ChunkStats(chunk.source.env_id, chunk.episodes, successes, plans, agreed, len(lines))
    write_atomically(chunk.path, "\n".join([*lines, json.dumps({"stats": asdict(stats)})]) + "\n")
    return stats


def _play_seed(chunk: Chunk, seed: int, student: PlannerBackend | None) -> tuple[Demonstration, list[str]]:
    """Play one episode; return it, and the samples to keep of it as JSON lines."""
    how, rng = chunk.how, np.random.default_rng((seed, 1))
    noise = how.noise if chunk.source.noise is None else chunk.source.noise
    labeller = Labeller(rng, student, how.share, noise, how.stubbornness)
    job = EpisodeJob(how.student or "expert", chunk.source.env_id, seed, chunk.source.verbosity, horizon=chunk.source.horizon)
    most = STUDENT_REPLANS if how.student and chunk.source.horizon == "task" else chunk.source.max_replans
    made = demonstrate(job, labeller, AgentConfig(max_replans=most, sampling=Sampling(MAX_NEW_TOKENS)))
    return made, [_dump(sample) for sample in _chosen(made.samples, rng, how.corrections)]


def _chosen(samples: Sequence[Sample], rng: np.random.Generator, corrections: int) -> list[Sample]:
    """Return the sample of the whole episode, and at most ``corrections`` of its corrections, drawn at random."""
    extra = list(samples[1:])
    picked = rng.permutation(len(extra))[:corrections]
    return [*samples[:1], *(extra[i] for i in picked)]


def _dump(sample: Sample) -> str:
    entries = [[e.kind, e.text] for e in sample.entries]
    return json.dumps({"entries": entries, "labels": list(sample.labels), "system": sample.system})


def read_demonstrations(path: Path) -> Iterator[Sample]:
    """Read the samples of a chunk."""
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "entries" in record:
            entries = tuple(Entry(kind, text) for kind, text in record["entries"])
            yield Sample(entries, tuple(record["labels"]), record.get("system"))


def read_stats(path: Path) -> ChunkStats:
    """Read the statistics of a chunk."""
    return ChunkStats(**json.loads(path.read_text().splitlines()[-1])["stats"])
