"""The context from which the selectors of the registry are made."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from erecap.models.pruner import TokenPruner
from erecap.schedule import PruneSchedule


@dataclass(frozen=True)
class SelectorContext:
    """The inputs that a selector may use.

    Attributes
    ----------
    schedule
        Stages at which the selector will score.
    pruner
        The model's pruner; ``None`` where there is none.
    seed
        Seed of random scores.
    model
        The model to be pruned.
    eos_ids
        Tokens that end the model's answers.
    """

    schedule: PruneSchedule
    pruner: TokenPruner | None = None
    seed: int = 0
    model: PreTrainedModel | None = None
    eos_ids: frozenset[int] = frozenset()
