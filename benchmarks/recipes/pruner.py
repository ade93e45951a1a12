"""The pruner's recipe: saliency of the unpruned planner, if the loss needs it, then training of the token pruner."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import torch

from benchmarks.output.files import write_atomically
from benchmarks.recipes.sequences import SequenceChoice, check_split, choose_sequences, split_at_random
from benchmarks.reports.training_plots import pruner_plot
from erecap.models.identity import identify
from erecap.models.loading import LoadedModel
from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule
from erecap.training.batches import Batches
from erecap.training.config import TrainConfig
from erecap.training.loop import Hooks, TrainRecord
from erecap.training.pruner_loss import PrunerLoss
from erecap.training.ratios import Ratios
from erecap.training.saliency_file import SaliencySet
from erecap.training.softmask import MaskConfig
from erecap.training.train_pruner import PrunerData, PrunerTraining, train_pruner

log = structlog.get_logger()


def seed_stages(loaded: LoadedModel) -> tuple[int, ...]:
    """Return the layers of the default stages for a model of this depth."""
    return PruneSchedule.for_depth(loaded.model.config.num_hidden_layers, 1.0).layers


def warn_of_late_stages(loaded: LoadedModel, stages: Sequence[int]) -> None:
    """Log a warning for those of ``stages`` after which saliency is always 0."""
    late = [stage for stage in stages if stage >= loaded.model.config.num_hidden_layers - 2]
    if late:
        log.warning("after the last two layers saliency is 0 up to rounding and does not tell tokens apart", after_layers=late)


@dataclass(frozen=True)
class PrunerRecipe:
    """The data and settings of a pruner's training.

    Attributes
    ----------
    choice
        The episodes.
    config
        Length and settings of the run.
    loss
        Weights and settings of the loss terms.
    saliency
        File with the saliency of the same episodes; required by the loss terms ``mse`` and ``rank``.
    stages
        Layers after which to score; by default those of the saliency file, or else the default stages.
    keeps
        Range of the keep ratios; each batch draws one from it.
    held_out
        Share of the episodes to validate on, 0..1.
    patience
        Validations without a lower loss after which to stop; ``None`` for never.
    inputs
        What the scorers read (``erecap.models.pruner.INPUTS``).
    batch_tokens
        Largest size of a batch in tokens, padding included; ``None`` for the longest sequence allowed.
    mask
        Softness of the keep-or-drop decisions.

    Raises
    ------
    ValueError
        Unless ``held_out`` is in [0, 1) and ``batch_tokens`` at least 1.
    """

    choice: SequenceChoice
    config: TrainConfig
    loss: PrunerLoss
    saliency: Path | None = None
    stages: tuple[int, ...] | None = None
    keeps: Ratios = field(default_factory=lambda: Ratios(0.05, 0.6))
    held_out: float = 0.1
    patience: int | None = None
    inputs: str = "rms"
    batch_tokens: int | None = None
    mask: MaskConfig = field(default_factory=MaskConfig)

    def __post_init__(self) -> None:
        check_split(self.held_out, self.batch_tokens)


def make_pruner(
    loaded: LoadedModel,
    recipe: PrunerRecipe,
    out: Path,
    on_step: Callable[[TrainRecord], None],
    on_work: Callable[[int, str], None] | None = None,
) -> Sequence[TrainRecord]:
    """Train a pruner into ``out/pruner``, and plot its loss to ``out/loss.png``.

    The held-out loss is measured at the lowest and at the middle of the keep ratios.

    Parameters
    ----------
    loaded
        The planner, which stays frozen.
    recipe
        Data and settings.
    out
        Directory of the run; a stopped run continues from its checkpoint.
    on_step
        Called with each record of the log.
    on_work
        Called with the steps done and the work at hand, in words.

    Returns
    -------
    sequence of TrainRecord
        The records of the log.

    Raises
    ------
    ValueError
        If data, saliency, stages and model do not fit together, or ``out`` holds a run with other settings.
    """
    identity, choice = identify(loaded.model), recipe.choice
    saliency = None if recipe.saliency is None else SaliencySet(recipe.saliency, identity, recipe.stages)
    stages = saliency.stages if saliency is not None else recipe.stages or seed_stages(loaded)
    torch.manual_seed(recipe.config.seed)
    pruner = TokenPruner(identity, stages, recipe.inputs).to(loaded.device)
    sequences = choose_sequences(choice, loaded.tokenizer)
    trained, held_out = split_at_random(len(sequences), recipe.held_out, choice.seed)
    batches = Batches(sequences, recipe.batch_tokens or choice.max_length, choice.seed, only=trained)
    training = PrunerTraining(
        PruneSchedule.after(stages, recipe.keeps.at(0.5, len(stages))),
        recipe.config,
        recipe.loss,
        recipe.mask,
        keeps=recipe.keeps,
        patience=recipe.patience,
    )
    data = PrunerData(batches, saliency, tuple(held_out))
    told = Hooks(on_step=on_step, on_work=on_work)
    told.about(0)(f"{len(trained)} sequences of {sequences.lengths[trained].sum()} tokens to train on, {len(held_out)} held out")
    records = train_pruner(loaded.model, pruner, data, training, out, told)
    write_atomically(out / "loss.png", pruner_plot(records))
    return records
