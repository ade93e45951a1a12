"""Collecting demonstrations, in chunks over worker processes. A chunk that is on disk is not played again."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from agents.demonstrations import Labeller, Sample, demonstrate
from agents.job import EpisodeJob
from agents.loop import AgentConfig
from benchmarks.output.files import write_atomically
from benchmarks.recipes.planner.config import Source
from planner import Entry, PlannerBackend

MAX_REPLANS = 40
"""An episode that has not ended by then teaches nothing new."""
SEEDS_PER_ROUND = 50_000
"""The recipe's seeds lie below 500,000 (``suites.RECORDED``): round r uses those from r times this number."""


@dataclass(frozen=True)
class Chunk:
    """Episodes of one source that one worker plays in a row."""

    source: Source
    first_seed: int
    episodes: int
    noise: float
    corrections: int
    student: str
    share: float
    path: Path


@dataclass(frozen=True)
class ChunkStats:
    """What came of a chunk."""

    env_id: str
    episodes: int
    successes: int
    plans: int
    agreed: int
    samples: int


MakeBackend = Callable[[str], PlannerBackend]


def chunks(
    sources: Sequence[Source], out: Path, *, round_: int, noise: float, corrections: int, student: str, share: float
) -> list[Chunk]:
    """The chunks of one round: every source has seeds of its own, below those of the suites.

    Raises ``ValueError`` for a source with more episodes than it has seeds.
    """
    found: list[Chunk] = []
    seeds = SEEDS_PER_ROUND // max(len(sources), 1)
    for number, source in enumerate(sources):
        if source.episodes > seeds:
            raise ValueError(f"{source.episodes} episodes of {source.env_id} exceed its {seeds} seeds of a round: ask for fewer")
        base = round_ * SEEDS_PER_ROUND + number * seeds
        for start in range(0, source.episodes, source.chunk):
            name = f"{source.env_id.replace('/', '-')}-{source.verbosity}-{base + start}.jsonl"
            count = min(source.chunk, source.episodes - start)
            found.append(Chunk(source, base + start, count, noise, corrections, student, share, out / name))
    return found


def collect(todo: Sequence[Chunk], make_backend: MakeBackend, workers: int, on_chunk: Callable[[Chunk, ChunkStats], None]) -> None:
    """Play the chunks that are not on disk yet in ``workers`` processes; ``on_chunk`` is called for each one as it is finished."""
    missing = [chunk for chunk in todo if not chunk.path.exists()]
    for chunk in todo:
        if chunk not in missing:
            on_chunk(chunk, read_stats(chunk.path))
    if not missing:
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(play_chunk, chunk, make_backend): chunk for chunk in missing}
        try:
            for future in as_completed(running):
                on_chunk(running[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def play_chunk(chunk: Chunk, make_backend: MakeBackend) -> ChunkStats:
    """Play a chunk and write its samples: one JSON line each, the statistics last."""
    student = make_backend(chunk.student) if chunk.student else None
    lines: list[str] = []
    episodes = successes = plans = agreed = 0
    for seed in range(chunk.first_seed, chunk.first_seed + chunk.episodes):
        rng = np.random.default_rng((seed, 1))
        labeller = Labeller(rng, student, chunk.share, chunk.noise)
        job = EpisodeJob(chunk.student or "expert", chunk.source.env_id, seed, chunk.source.verbosity)
        made = demonstrate(job, labeller, AgentConfig(max_replans=MAX_REPLANS))
        lines += [_dump(sample) for sample in _chosen(made.samples, rng, chunk.corrections)]
        episodes, successes = episodes + 1, successes + int(made.episode.success)
        plans, agreed = plans + made.plans, agreed + made.agreed
    stats = ChunkStats(chunk.source.env_id, episodes, successes, plans, agreed, len(lines))
    write_atomically(chunk.path, "\n".join([*lines, json.dumps({"stats": asdict(stats)})]) + "\n")
    return stats


def _chosen(samples: Sequence[Sample], rng: np.random.Generator, corrections: int) -> list[Sample]:
    """The whole episode, and at most so many of its corrections."""
    extra = list(samples[1:])
    picked = rng.permutation(len(extra))[:corrections]
    return [*samples[:1], *(extra[i] for i in picked)]


def _dump(sample: Sample) -> str:
    return json.dumps({"entries": [[e.kind, e.text] for e in sample.entries], "labels": list(sample.labels)})


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a chunk."""
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if "entries" in record:
            yield Sample(tuple(Entry(kind, text) for kind, text in record["entries"]), tuple(record["labels"]))


def read_stats(path: Path) -> ChunkStats:
    """The statistics of a chunk."""
    return ChunkStats(**json.loads(path.read_text().splitlines()[-1])["stats"])
