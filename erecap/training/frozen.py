"""A frozen decoder run layer by layer in training sequences: whole length, right padding, no cache.

The engine's ``prefilling`` runs the same layers without gradients and with tokens really dropped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from erecap.architecture import decoder_parts
from erecap.masks import attention_mask


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


def stage_hidden(model: PreTrainedModel, input_ids: Tensor, stages: Sequence[int]) -> tuple[list[Tensor], Tensor]:
    """The residual stream that leaves each stage's layer, as nodes of the graph, and the final normalised hidden state.

    All [rows, length, width]; ``input_ids`` [rows, length]. Raises ``ValueError`` for a stage that is not a layer of the model.
    """
    parts = decoder_parts(model)
    if not stages or not all(0 <= s < len(parts.layers) for s in stages):
        raise ValueError(f"stages after layers {list(stages)}: give at least one layer of 0..{len(parts.layers) - 1}")
    kept: list[Tensor] = []
    stream = parts.embed(input_ids)
    rope = parts.rotary(stream, torch.arange(stream.shape[1], device=stream.device)[None])
    causal = attention_mask(parts.attention, None, stream)
    for number, layer in enumerate(parts.layers):
        stream = layer_forward(layer, stream, rope, causal)
        if number in stages:
            # the first stage begins the graph: nothing before it needs a gradient
            stream = stream if kept else stream.detach().requires_grad_()
            kept.append(stream)
    return kept, parts.norm(stream)
