"""The recipe of a draft head: training sequences in, trained head out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.recipes.sequences import SequenceChoice, check_split, choose_sequences, split_at_random
from erecap.models.draft_head import AHEAD, WIDTH, DraftHead
from erecap.models.loading import LoadedModel
from erecap.training.batches import Batches
from erecap.training.config import TrainConfig
from erecap.training.loop import Hooks, TrainRecord
from erecap.training.train_draft_head import episodes_of, train_draft_head


@dataclass(frozen=True)
class DraftHeadRecipe:
    """What a draft head is made of.

    Attributes
    ----------
    choice
        The training sequences.
    config
        Length and settings of the training.
    width, ahead
        Width of the recurrent state, and how many tokens are guessed.
    held_out
        Share of the episodes to validate on, 0..1.
    batch_tokens
        Largest size of a batch in tokens, padding included; ``None`` for the longest sequence allowed.

    Raises
    ------
    ValueError
        Unless ``held_out`` is in [0, 1) and ``batch_tokens`` at least 1.
    """

    choice: SequenceChoice
    config: TrainConfig
    width: int = WIDTH
    ahead: int = AHEAD
    held_out: float = 0.1
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        check_split(self.held_out, self.batch_tokens)


def make_draft_head(
    loaded: LoadedModel,
    recipe: DraftHeadRecipe,
    out: Path,
    on_step: Callable[[TrainRecord], None],
    on_work: Callable[[int, str], None] | None = None,
) -> Sequence[TrainRecord]:
    """Train a draft head into ``out/draft_head``.

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
        If data and model do not fit together, or ``out`` holds a run with other settings.
    """
    torch.manual_seed(recipe.config.seed)
    head = DraftHead(loaded.identity, recipe.width, recipe.ahead).to(loaded.device)
    sequences = episodes_of(choose_sequences(recipe.choice, loaded.tokenizer))
    trained, held_out = split_at_random(len(sequences), recipe.held_out, recipe.choice.seed)
    budget, seed = recipe.batch_tokens or recipe.choice.max_length, recipe.choice.seed
    batches = Batches(sequences, budget, seed, only=trained)
    judged = Batches(sequences, budget, seed, only=held_out) if held_out else None
    told = Hooks(on_step=on_step, on_work=on_work)
    told.about(0)(f"{len(trained)} sequences of {sequences.lengths[trained].sum()} tokens to train on, {len(held_out)} held out")
    return train_draft_head(loaded.model, head, batches, judged, recipe.config, out, told)
