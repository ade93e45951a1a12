"""Demonstrations, played in chunks by worker processes. Chunks on disk are not played again."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np

from agents.demonstrations import Labeller, Sample, demonstrate
from agents.job import EpisodeJob
from agents.loop import AgentConfig
from agents.runner import MakeBackend
from agents.workers import end_with_parent
from benchmarks.output.files import write_atomically
from benchmarks.recipes.planner.config import Source
from benchmarks.recipes.seeds import SEEDS_PER_ROUND
from planner import Entry

MAX_REPLANS = 40
"""Number of replans after which an episode ends. Longer episodes teach nothing new."""


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


def chunks(sources: Sequence[Source], how: RoundPlay, out: Path) -> list[Chunk]:
    """Divide one round into chunks. Every source has its own seeds, below those of recordings and suites.

    Raises
    ------
    ValueError
        For a source with more episodes than it has seeds.
    """
    found: list[Chunk] = []
    seeds = SEEDS_PER_ROUND // max(len(sources), 1)
    for number, source in enumerate(sources):
        if source.episodes > seeds:
            raise ValueError(f"{source.episodes} episodes of {source.env_id} exceed its {seeds} seeds of a round: ask for fewer")
        base = how.number * SEEDS_PER_ROUND + number * seeds
        for start in range(0, source.episodes, source.chunk):
            name = f"{source.env_id.replace('/', '-')}-{source.verbosity}-{source.horizon}-{base + start}.jsonl"
            count = min(source.chunk, source.episodes - start)
            found.append(Chunk(source, base + start, count, how, out / name))
    return found


def play_chunks(
    todo: Sequence[Chunk], make_backend: MakeBackend, workers: int, on_chunk: Callable[[Chunk, ChunkStats], None]
) -> None:
    """Play the chunks that are not on disk yet.

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
    """
    missing = [chunk for chunk in todo if not chunk.path.exists()]
    for chunk in todo:
        if chunk not in missing:
            on_chunk(chunk, read_stats(chunk.path))
    if not missing:
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        running = {pool.submit(play_chunk, chunk, make_backend): chunk for chunk in missing}
        try:
            for future in as_completed(running):
                on_chunk(running[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():  # else this process waits for chunks that nobody wants any more
                worker.terminate()
            raise


def play_chunk(chunk: Chunk, make_backend: MakeBackend) -> ChunkStats:
    """Play a chunk and write its samples: one JSON line each, the statistics last."""
    how = chunk.how
    student = make_backend(how.student) if how.student else None
    lines: list[str] = []
    episodes = successes = plans = agreed = 0
    for seed in range(chunk.first_seed, chunk.first_seed + chunk.episodes):
        rng = np.random.default_rng((seed, 1))
        labeller = Labeller(rng, student, how.share, how.noise, how.stubbornness)
        job = EpisodeJob(how.student or "expert", chunk.source.env_id, seed, chunk.source.verbosity, horizon=chunk.source.horizon)
        made = demonstrate(job, labeller, AgentConfig(max_replans=MAX_REPLANS))
        lines += [_dump(sample) for sample in _chosen(made.samples, rng, how.corrections)]
        episodes, successes = episodes + 1, successes + int(made.episode.success)
        plans, agreed = plans + made.plans, agreed + made.agreed
    stats = ChunkStats(chunk.source.env_id, episodes, successes, plans, agreed, len(lines))
    write_atomically(chunk.path, "\n".join([*lines, json.dumps({"stats": asdict(stats)})]) + "\n")
    return stats


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
