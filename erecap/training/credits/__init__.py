"""What a plan needed of the tokens before it, in several senses. A new one is a file with one class and a line in ``CREDITS``."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from erecap.engine.differentiable import check_stages
from erecap.training.credits.attention import AttentionCredit
from erecap.training.credits.base import Credit
from erecap.training.credits.gradient import GradientCredit
from erecap.training.credits.removal import RemovalCredit
from erecap.training.data import Batch

CREDITS: dict[str, Callable[[PreTrainedModel, Batch, Sequence[int]], Credit]] = {
    "gradient": GradientCredit,
    "attention": AttentionCredit,
    "removal": RemovalCredit,
}

__all__ = ["CREDITS", "AttentionCredit", "Credit", "GradientCredit", "RemovalCredit", "make_credit"]


def make_credit(name: str, model: PreTrainedModel, batch: Batch, stages: Sequence[int]) -> Credit:
    """The credit of that name for ``batch``. Raises ``ValueError`` for an unknown name, or stages that are no layers in order."""
    if name not in CREDITS:
        raise ValueError(f"credit {name!r} is not known: the credits are {', '.join(CREDITS)}")
    check_stages(stages, model.config.num_hidden_layers)
    return CREDITS[name](model, batch, stages)
