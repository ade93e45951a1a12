"""From recorded episodes to a pruner: saliency of the unpruned planner (stage 1), then the token pruner (stage 2).

Episodes come from run directories (``steps.jsonl``) or from the shards of ``erecap train-planner``. Both stages read the same
choice of them, which is a function of the arguments alone, so that saliency and sequences fit together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import structlog
import torch
from transformers import PreTrainedTokenizerBase

from agents.demonstrations import Sample
from agents.episode_log import read_records
from agents.records import TranscriptRecord
from benchmarks.closed_loop import STEPS_FILE
from benchmarks.planner_recipe.dataset import messages
from benchmarks.suites import HELD_OUT
from benchmarks.summary import choose_reference
from erecap.identity import identify
from erecap.loading import LoadedModel
from erecap.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.training.data import Batches, SequenceList, ShardedSequences, encode_episode
from erecap.training.data import Sequence as TokenSequence
from erecap.training.loop import Hooks, StepRecord
from erecap.training.planner import TrainConfig
from erecap.training.pruner import PrunerLoss, train_pruner
from erecap.training.saliency import SaliencySet, collect_saliency
from erecap.training.texts import TEXT_SUFFIXES, BadLine, OnBad, chat_of, encode_chat, read_texts, refuse
from planner import Entry, PlanParseError, parse_plan

log = structlog.get_logger()


@dataclass(frozen=True)
class Choice:
    """Which episodes: ``samples`` of at most ``max_length`` tokens, chosen at random from ``data``.

    Data: run directories, shards directories of ``train-planner``, ``.jsonl`` or ``.txt`` files, data sets on the hub. ``skip_bad``
    leaves out the lines of texts that are no samples; they are an error otherwise.
    """

    data: tuple[Path, ...]
    samples: int = 256
    max_length: int = 4608
    seed: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_length < 2:
            raise ValueError(f"num_samples={self.samples}, max_length={self.max_length}: give at least 1 sample and 2 tokens")


def choose(choice: Choice, tokenizer: PreTrainedTokenizerBase) -> SequenceList:
    """The chosen episodes as token sequences. Raises ``ValueError`` where ``data`` holds no fitting episode."""
    bad: list[BadLine] = []
    on_bad = bad.append if choice.skip_bad else refuse
    found = [s for path in choice.data for s in _read(path, tokenizer, choice.max_length, on_bad) if len(s) <= choice.max_length]
    if bad:
        log.warning("lines left out", count=len(bad), first=str(bad[0]))
    if not found:
        raise ValueError(
            f"no episode of at most {choice.max_length} tokens in {', '.join(map(str, choice.data))}: raise --max-length"
        )
    order = np.random.default_rng(choice.seed).permutation(len(found))[: choice.samples]
    return SequenceList([found[i] for i in sorted(order)])


def _read(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, on_bad: OnBad) -> Iterator[TokenSequence]:
    if (path / STEPS_FILE).is_file():
        return (encode_episode(tokenizer, messages(sample)) for sample in _transcripts(path / STEPS_FILE))
    if shards := sorted(path.glob("*.safetensors")):
        sequences = ShardedSequences(shards)
        return (sequences[i] for i in range(len(sequences)))
    if path.suffix in TEXT_SUFFIXES and path.is_file():
        return read_texts(path, tokenizer, max_length, on_bad)
    if not path.exists() and len(path.parts) == 2:
        return read_hub(path.as_posix(), tokenizer, on_bad)
    raise ValueError(
        f"{path} holds neither {STEPS_FILE} nor shards: give a run directory, a shards directory of train-planner, or a file of "
        f"texts ({' or '.join(TEXT_SUFFIXES)})"
    )


def read_hub(name: str, tokenizer: PreTrainedTokenizerBase, on_bad: OnBad = refuse) -> Iterator[TokenSequence]:
    """The sequences of a data set of instructions or chats on the hub, its split ``train``. Needs the extra ``data``."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"{name!r} is no file, and to read it from the hub needs: pip install 'erecap[data]'") from error
    for number, record in enumerate(load_dataset(name, split="train"), 1):
        try:
            yield encode_chat(tokenizer, chat_of(record))
        except ValueError as error:
            on_bad(BadLine(name, number, str(error)))


def _transcripts(steps: Path) -> Iterator[Sample]:
    """Whole episodes of one backend of a run, the reference's, to learn from those of their plans that could be read."""
    records = [record for record in read_records(steps) if isinstance(record, TranscriptRecord)]
    refuse_held_out(steps, (record.seed for record in records))
    backend = choose_reference(sorted({record.backend for record in records}))
    chosen = (record for record in records if record.backend == backend)
    for _, group in groupby(chosen, key=lambda record: (record.env_id, record.seed)):
        entries = tuple(Entry(record.entry, record.text) for record in group)
        plans = [index for index, entry in enumerate(entries) if entry.kind == "plan"]
        if plans:
            yield Sample(
                entries[: plans[-1] + 1], tuple(t if _readable(t) else None for t in (entries[index].text for index in plans))
            )


def refuse_held_out(steps: Path, seeds: Iterable[int]) -> None:
    """Raise ``ValueError`` where one of ``seeds``, those of the episodes in ``steps``, is kept for measuring."""
    held_out = next((seed for seed in seeds if seed >= HELD_OUT), None)
    if held_out is not None:
        raise ValueError(
            f"{steps} holds episodes of the held-out seed {held_out}, on which results are measured: record others to train on "
            "with `erecap run --training-seeds`"
        )


def _readable(plan: str) -> bool:
    try:
        parse_plan(plan)
    except PlanParseError:
        return False
    return True


def seed_schedule(loaded: LoadedModel, keep: float) -> PruneSchedule:
    """The seed's stages for the model's depth."""
    return PruneSchedule.for_depth(loaded.model.config.num_hidden_layers, keep)


def make_saliency(
    loaded: LoadedModel, choice: Choice, schedule: PruneSchedule, out: Path, on_shard: Callable[[int, int], None]
) -> SaliencySet:
    """Stage 1, into ``out``; goes on from the shards that are there."""
    stages = [stage.after_layer for stage in schedule.stages]
    return collect_saliency(loaded.model, choose(choice, loaded.tokenizer), stages, out, shard_size=16, on_shard=on_shard)


def make_pruner(
    loaded: LoadedModel,
    choice: Choice,
    schedule: PruneSchedule,
    saliency: Path,
    config: TrainConfig,
    loss: PrunerLoss,
    out: Path,
    on_step: Callable[[StepRecord], None],
) -> Sequence[StepRecord]:
    """Stage 2, into ``out``; the pruner is in ``out/pruner`` afterwards."""
    identity = identify(loaded.model)
    torch.manual_seed(config.seed)
    pruner = TokenPruner(identity, tuple(stage.after_layer for stage in schedule.stages))
    batches = Batches(choose(choice, loaded.tokenizer), token_budget=choice.max_length, seed=choice.seed)
    found = SaliencySet(saliency, identity)
    return train_pruner(loaded.model, pruner, batches, found, schedule, config, out, loss=loss, hooks=Hooks(on_step=on_step))
