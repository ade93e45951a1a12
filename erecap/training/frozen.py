"""A frozen decoder run layer by layer in training sequences: whole length, right padding, no cache.

The engine's ``prefilling`` runs the same layers without gradients and with tokens really dropped.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode with no parameter that takes a gradient; everything as it was on exit."""
    training, flags = model.training, [p.requires_grad for p in model.parameters()]
    model.train(False)
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)


def layer_forward(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    """One decoder layer on [rows, length, width]. ``bias`` [rows, 1, length, length] is added to the attention logits and must
    itself forbid the future; ``None`` is plain causal attention."""
    bias = None if bias is None else bias.to(hidden.dtype)
    return layer(hidden, bias, position_embeddings=rope)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
