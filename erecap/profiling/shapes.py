"""Models of published shapes with random weights, made on the device. Timings and memory do not depend on trained weights."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from erecap.distributed.tensor_parallel import held_bytes
from erecap.models.identity import identify
from erecap.models.placement import Placement
from erecap.models.pruner import TokenPruner, place_pruner
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.memory_formula import config_bytes
from erecap.schedule import PruneSchedule

POSITIONS = 1 << 20
"""``max_position_embeddings`` of every shape. It is far above the published values, so that only memory limits the length."""

_QWEN2: dict[str, Any] = {
    "model_type": "qwen2",
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
_LARGE_QWEN2 = _QWEN2 | {"vocab_size": 152064, "tie_word_embeddings": False}
_LLAMA3: dict[str, Any] = {
    "model_type": "llama", "rope_theta": 5e5, "rms_norm_eps": 1e-5, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip


def _sizes(layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "qwen2-0.5b": _QWEN2 | _sizes(24, 896, 4864, 14, 2),
    "qwen2-1.5b": _QWEN2 | _sizes(28, 1536, 8960, 12, 2),
    "qwen2-7b": _LARGE_QWEN2 | _sizes(28, 3584, 18944, 28, 4),
    "qwen2-72b": _LARGE_QWEN2 | _sizes(80, 8192, 29568, 64, 8),
    "llama3-8b": _LLAMA3 | _sizes(32, 4096, 14336, 32, 8),
    "nano": _QWEN2 | _sizes(8, 128, 512, 4, 1) | {"head_dim": 64, "vocab_size": 1024},
}
"""Published architectures by name. ``nano`` is the bundled planner's."""


def shape_config(name: str) -> PretrainedConfig:
    """Return the configuration of the shape called ``name``.

    Its ``initializer_range`` is ``1 / sqrt(hidden_size)``: random weights of this standard deviation keep activations finite
    through all layers, and attention is far from uniform.

    Raises
    ------
    ValueError
        For a name that is not in ``SHAPES``.
    """
    if name not in SHAPES:
        raise ValueError(f"shape {name!r} is not known: the shapes are {', '.join(SHAPES)}")
    fields = dict(SHAPES[name])
    theta, kind = fields.pop("rope_theta"), fields.pop("model_type")
    make = Qwen2Config if kind == "qwen2" else LlamaConfig
    return make(
        **fields,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        max_position_embeddings=POSITIONS,
        initializer_range=fields["hidden_size"] ** -0.5,
    )


def shape_bytes(name: str, dtype: torch.dtype) -> int:
    """Return the bytes of the weights of shape ``name`` in ``dtype``, without biases and norms (about a thousandth)."""
    return config_bytes(shape_config(name), dtype)


def make_random_model(
    config: PretrainedConfig, device: torch.device, dtype: torch.dtype, attention: str = "sdpa", seed: int = 0
) -> PreTrainedModel:
    """Make a model of ``config`` with random weights, directly on ``device`` and in ``dtype``, in evaluation mode.

    Rotary frequencies are computed by the model itself and stay float32.
    """
    model: Any  # transformers' modules are untyped
    make: Any = Qwen2ForCausalLM if config.model_type == "qwen2" else LlamaForCausalLM
    config._attn_implementation = attention
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = make(config)
    finally:
        torch.set_default_dtype(before)
    model.to(device)
    check_made(model, device, dtype)
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]  # nn.Module.requires_grad_ is untyped here


def make_random_spread_model(
    config: PretrainedConfig, placement: Placement, dtype: torch.dtype, attention: str = "sdpa", seed: int = 0
) -> PreTrainedModel:
    """Make a model of ``config`` with random weights on several devices, by transformers' own way of spreading a checkpoint.

    The ranks of a launch call this together. Their weights may differ from those of ``make_random_model``.
    """
    make: Any = Qwen2ForCausalLM if config.model_type == "qwen2" else LlamaForCausalLM
    torch.manual_seed(seed)
    with _without_reports():  # an empty checkpoint: every weight is reported as missing, and then drawn at random
        model = make.from_pretrained(
            None, config=config, state_dict={}, dtype=dtype, attn_implementation=attention, **placement.load_options()
        )
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


@contextmanager
def _without_reports() -> Iterator[None]:
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def check_made(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ``RuntimeError`` unless all weights of ``model`` are on ``device`` in ``dtype`` and its rotary table is float32."""
    wrong = [name for name, weight in model.named_parameters() if weight.device.type != device.type or weight.dtype != dtype]
    parts: Any = model
    rotary = parts.get_decoder().rotary_emb.inv_freq
    if wrong or rotary.dtype != torch.float32 or rotary.device.type != device.type:
        raise RuntimeError(
            f"the random model was not made on {device} in {dtype}: {wrong[:3] or 'rotary frequencies'} are elsewhere"
        )


def make_random_pruner(model: PreTrainedModel, schedule: PruneSchedule) -> TokenPruner:
    """Make an untrained pruner for the stages of ``schedule``, on the devices of its layers and in their dtype, for timings."""
    pruner = TokenPruner(identify(model, "random"), [stage.after_layer for stage in schedule.stages])
    return place_pruner(pruner.eval().requires_grad_(False), model)


def make_random_prompt(model: PreTrainedModel, length: int) -> TokenizedPrompt:
    """Make a prompt of ``length`` random tokens, the same at every call; none is protected."""
    return TokenizedPrompt.from_ids(np.random.default_rng(length).integers(0, model.config.vocab_size, length))


def weight_bytes(model: PreTrainedModel) -> int:
    """Count the bytes of all weights that this process holds; tied weights count once."""
    return sum(held_bytes(weight) for weight in model.parameters())


def read_bytes_per_token(model: PreTrainedModel) -> int:
    """Count the bytes of the weights that one decode step reads in this process.

    The embedding table is left out, since a step reads one row of it, unless it is tied: then it is also the output matrix.
    """
    parts: Any = model
    table = parts.get_input_embeddings().weight
    tied = parts.get_output_embeddings().weight is table
    return weight_bytes(model) - (0 if tied else held_bytes(table))
