"""Credits: measures of how much a plan needed each earlier token. A new one is a file with a class and a line in ``CREDITS``."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from erecap.engine.differentiable import check_stages
from erecap.training.batches import Batch
from erecap.training.credits.attention import AttentionCredit
from erecap.training.credits.base import Credit
from erecap.training.credits.gradient import GradientCredit
from erecap.training.credits.removal import RemovalCredit

CREDITS: dict[str, Callable[[PreTrainedModel, Batch, Sequence[int]], Credit]] = {
    "gradient": GradientCredit,
    "attention": AttentionCredit,
    "removal": RemovalCredit,
}

__all__ = ["CREDITS", "AttentionCredit", "Credit", "GradientCredit", "RemovalCredit", "make_credit"]


def make_credit(name: str, model: PreTrainedModel, batch: Batch, stages: Sequence[int]) -> Credit:
    """Make the credit of that name for ``batch``.

    Parameters
    ----------
    name
        One of ``CREDITS``.
    model
        The unpruned model, frozen.
    batch
        Whole episodes.
    stages
        Layers after which tokens are credited, in rising order.

    Raises
    ------
    ValueError
        For an unknown name, and for stages that are not layers in rising order.
    """
    if name not in CREDITS:
        raise ValueError(f"credit {name!r} is not known: the credits are {', '.join(CREDITS)}")
    check_stages(stages, model.config.num_hidden_layers)
    return CREDITS[name](model, batch, stages)
