"""A frozen decoder run layer by layer with gradients: whole sequences, padded on the right, no cache.

``erecap.engine.prefill`` runs the same layers without gradients, and drops tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel

from erecap.models.architecture import decoder_parts
from erecap.models.causal_attention import attending_causally, attending_fast
from erecap.models.device import dtype_name
from erecap.models.masks import attention_mask

# Scales of the loss for float16, which underflows below 6e-8 and overflows above 65504. They are tried from large to small.
_LOSS_SCALES = {torch.float16: (2.0**16, 2.0**12, 2.0**8, 2.0**4, 1.0)}


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """Put ``model`` into evaluation mode and take gradients from no parameter; restore both on exit."""
    training, flags = model.training, [p.requires_grad for p in model.parameters()]
    model.train(False)
    model.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)


def layer_forward(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
    """Run one decoder layer.

    Parameters
    ----------
    layer
        The layer.
    hidden
        Residual stream, ``(rows, length, hidden_size)``.
    rope
        Cosine and sine of the positions, each ``(1, length, head_dim)``.
    mask
        Added to the attention logits, ``(rows, 1, length, length)``; -inf must hide later tokens. ``None`` is plain causal
        attention.

    Returns
    -------
    Tensor
        Residual stream that leaves the layer, ``(rows, length, hidden_size)``.
    """
    if mask is not None:
        return _run(layer, hidden, rope, mask.to(hidden.dtype))
    with attending_fast(_config(layer), hidden.device):
        return _run(layer, hidden, rope, None)


def biased_layer_forward(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    """Run one decoder layer as ``layer_forward`` does, with a bias on the logits of each key, ``(rows, length)``, or with none.

    The model's attention function is replaced by one whose memory grows linearly with the length.
    """
    with attending_causally(_config(layer)):
        return _run(layer, hidden, rope, None if bias is None else bias[:, None, None])


def _config(layer: nn.Module) -> PretrainedConfig:
    attention: Any = layer.self_attn
    config: PretrainedConfig = attention.config
    return config


def _run(layer: nn.Module, hidden: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
    return layer(hidden, mask, position_embeddings=rope)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def stage_hidden(
    model: PreTrainedModel, input_ids: Tensor, stages: Sequence[int], checkpointing: bool = False
) -> tuple[list[Tensor], Tensor]:
    """Run a model, and return the residual stream at the stages so that gradients can be taken with respect to it.

    Parameters
    ----------
    model
        The model, frozen.
    input_ids
        Token ids, int64 ``(rows, length)``.
    stages
        Layers after which the stages come.
    checkpointing
        Whether the backward pass computes each layer's activations again, so that only one layer's are in memory at a time.

    Returns
    -------
    list of Tensor
        Residual stream that leaves each stage's layer, ``(rows, length, hidden_size)`` each.
    Tensor
        Hidden state after the final norm, ``(rows, length, hidden_size)``.

    Raises
    ------
    ValueError
        For stages that are not layers of the model in rising order.
    """
    parts = decoder_parts(model)
    check_stages(stages, len(parts.layers))
    kept: list[Tensor] = []
    stream = parts.embed(input_ids)
    rope = parts.rotary(stream, torch.arange(stream.shape[1], device=stream.device)[None])
    causal = attention_mask(parts.attention, None, stream)
    for number, layer in enumerate(parts.layers):
        if checkpointing and kept and torch.is_grad_enabled():
            stream = checkpoint(layer_forward, layer, stream, rope, causal, use_reentrant=False, preserve_rng_state=False)
        else:
            stream = layer_forward(layer, stream, rope, causal)
        if number in stages:
            # The graph begins at the first stage: nothing before it needs a gradient.
            stream = stream if kept else stream.detach().requires_grad_()
            kept.append(stream)
    return kept, parts.norm(stream)


def check_stages(stages: Sequence[int], num_layers: int) -> None:
    """Raise ``ValueError`` unless ``stages`` are one or more layers in rising order."""
    if not stages or list(stages) != sorted({stage for stage in stages if 0 <= stage < num_layers}):
        raise ValueError(f"stages after layers {list(stages)}: give at least one layer of 0..{num_layers - 1}, in rising order")


def gradient_products(loss: Tensor, hidden: Sequence[Tensor]) -> Tensor:
    """Compute gradient x hidden state, ``|sum_d (dL / dh)_d * h_d|``, of each token at each stage. The autograd graph is kept.

    Parameters
    ----------
    loss
        Scalar whose gradient is taken.
    hidden
        The residual stream at each stage, ``(rows, length, hidden_size)`` each, as ``stage_hidden`` returns it.

    Returns
    -------
    Tensor
        float32 ``(stages, rows, length)``.

    Raises
    ------
    ValueError
        Where the gradients do not fit into the dtype of ``hidden``.
    """
    for scale in _LOSS_SCALES.get(hidden[0].dtype, (1.0,)):
        gradients = torch.autograd.grad(loss * scale, hidden, retain_graph=True)
        products = [((g.float() * h.float()).sum(-1).abs() / scale).detach() for g, h in zip(gradients, hidden, strict=True)]
        found = torch.stack([product.to(loss.device) for product in products])  # layers may be on several devices
        if found.isfinite().all():
            return found
    kind = dtype_name(hidden[0].dtype)
    raise ValueError(f"the loss or its gradients are not finite in {kind}: load the model in bfloat16 or float32 (dtype)")
