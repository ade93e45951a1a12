"""From recorded episodes to a pruner: the token pruner (stage 2), after saliency of the unpruned planner (stage 1) where asked for.

Episodes come from run directories (``steps.jsonl``) or from the shards of ``erecap train-planner``. Both stages read the same
choice of them, which is a function of the arguments alone, so that saliency and sequences fit together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import structlog
import torch
from transformers import PreTrainedTokenizerBase

from agents.demonstrations import Sample
from benchmarks.backends.registry import choose_reference
from benchmarks.output.files import write_atomically
from benchmarks.recipes.planner.dataset import messages
from benchmarks.reports.training_plots import pruner_plot
from benchmarks.runs.closed_loop import STEPS_FILE
from benchmarks.runs.records import RunRecords
from benchmarks.runs.suites import HELD_OUT
from erecap.models.identity import identify
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.schedule.schedule import PruneSchedule
from erecap.training.data import Batches, SequenceList, ShardedSequences, cut_after_plan, encode_episode
from erecap.training.data import Sequence as TokenSequence
from erecap.training.loop import Hooks, StepRecord
from erecap.training.planner import TrainConfig
from erecap.training.pruner import train_pruner
from erecap.training.pruner_loss import PrunerLoss
from erecap.training.saliency import SaliencySet
from erecap.training.softmask import Targets
from erecap.training.texts import TEXT_SUFFIXES, BadLine, OnBad, chat_of, encode_chat, read_texts, refuse
from planner import PlanParseError, parse_plan

log = structlog.get_logger()


@dataclass(frozen=True)
class Choice:
    """Which episodes: ``samples`` chosen at random from ``data``, longer ones cut after the last plan within ``max_length`` tokens.

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
    whole = (s for path in choice.data for s in _read(path, tokenizer, choice.max_length, on_bad))
    found = [cut for s in whole if (cut := cut_after_plan(s, choice.max_length)) is not None]
    if bad:
        log.warning("lines left out", count=len(bad), first=str(bad[0]))
    if not found:
        raise ValueError(
            f"no episode with a plan within {choice.max_length} tokens in {', '.join(map(str, choice.data))}: give data that is not"
            " empty, or raise --max-length"
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
    records = RunRecords.read(steps)
    refuse_held_out(steps, records.seeds)
    for entries in records.transcripts(choose_reference(sorted(records.backends))):
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


def seed_stages(loaded: LoadedModel) -> tuple[int, ...]:
    """The seed's stages for the model's depth."""
    return PruneSchedule.for_depth(loaded.model.config.num_hidden_layers, 1.0).layers


def warn_of_late_stages(loaded: LoadedModel, stages: Sequence[int]) -> None:
    """Log the stages after which there is no saliency to be had."""
    late = [stage for stage in stages if stage >= loaded.model.config.num_hidden_layers - 2]
    if late:
        log.warning(
            "after the last two layers saliency is 0 but for rounding, so that it tells nothing of tokens", after_layers=late
        )


@dataclass(frozen=True)
class PrunerTraining:
    """How stage 2 trains: keep ratios, drawn per batch from lowest to highest; the share of episodes held out for validation; after
    how many evaluations without a lower held-out loss to stop (``None``: never); and the rest as ``TrainConfig``."""

    config: TrainConfig
    loss: PrunerLoss
    keeps: tuple[float, float] = (0.3, 0.9)
    held_out: float = 0.1
    patience: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out} must be in [0, 1): give the share of episodes to validate on")


def make_pruner(
    loaded: LoadedModel,
    choice: Choice,
    saliency: Path | None,
    training: PrunerTraining,
    out: Path,
    on_step: Callable[[StepRecord], None],
    stages: Sequence[int] | None = None,
) -> Sequence[StepRecord]:
    """Stage 2, into ``out``; the pruner is in ``out/pruner`` afterwards, ``loss.png`` beside.

    For the layers in ``stages``, or all that ``saliency`` has, or else the seed's.

    Held-out loss is measured at the lowest and the middle of the keep ratios.
    """
    identity = identify(loaded.model)
    found = None if saliency is None else SaliencySet(saliency, identity, stages)
    layers = found.stages if found is not None else seed_stages(loaded) if stages is None else tuple(stages)
    torch.manual_seed(training.config.seed)
    pruner, sequences = TokenPruner(identity, layers).to(loaded.device), choose(choice, loaded.tokenizer)
    dealt, held_out = _split(len(sequences), training.held_out, choice.seed)
    batches = Batches(sequences, token_budget=choice.max_length, seed=choice.seed, only=dealt)
    schedule = PruneSchedule.after(layers, sum(training.keeps) / 2)
    records = train_pruner(
        loaded.model,
        pruner,
        batches,
        found,
        schedule,
        training.config,
        out,
        loss=training.loss,
        hooks=Hooks(on_step=on_step),
        keeps=training.keeps,
        held_out=held_out,
        patience=training.patience,
    )
    write_atomically(out / "loss.png", pruner_plot(records))
    return records


def keeps_of(text: str) -> tuple[float, float]:
    """(lowest, highest) keep ratio of ``0.3-0.9`` or ``0.7``. Raises ``ValueError`` for other text."""
    lowest, dash, highest = text.partition("-")
    try:
        return float(lowest), float(highest if dash else lowest)
    except ValueError as error:
        raise ValueError(f"keep={text!r} is no keep ratio: write it like 0.7 or 0.3-0.9") from error


def targets_of(text: str) -> Targets:
    """``text`` as the name of what the LM loss is of. Raises ``ValueError`` for others."""
    for name in get_args(Targets):
        if text == name:
            return name  # type: ignore[no-any-return]  # get_args has no types
    raise ValueError(f"targets={text!r} are not known: choose from {', '.join(get_args(Targets))}")


def _split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the sequences to train on, and of those held out."""
    order = np.random.default_rng([seed, 1]).permutation(count)
    held_out = min(count - 1, round(share * count))
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())
