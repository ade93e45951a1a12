"""The shape of the bundled planner, and the settings of a training run."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config

from erecap.models.device import default_dtype

Precision = Literal["auto", "float32", "bfloat16"]
"""Dtype of the matrix products in training; "auto" is the engine's default on the device."""


@dataclass(frozen=True)
class PlannerShape:
    """The shape of a small planner; the defaults are the bundled planner's.

    Attributes
    ----------
    hidden_size, intermediate_size
        Width of the residual stream and of the MLPs.
    num_layers
        Decoder layers.
    num_heads, num_kv_heads
        Query heads and KV heads of a layer.
    head_dim
        Width of a head.
    max_positions
        Longest context, in tokens.
    rope_theta
        Base of the rotary frequencies; Qwen2's by default. With it, half of a head's pairs hardly rotate over 8k positions.
        These pairs compare content at any distance; the others tell positions apart. The bound of "Base of RoPE Bounds Context
        Length" (arXiv 2405.14591) is about 8e4 here.
    """

    hidden_size: int = 128
    intermediate_size: int = 512
    num_layers: int = 8
    num_heads: int = 4
    num_kv_heads: int = 1
    head_dim: int = 64
    max_positions: int = 16384
    rope_theta: float = 1_000_000.0


def planner_config(
    vocab_size: int, shape: PlannerShape | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> Qwen2Config:
    """Make the Qwen2 configuration of a planner, with tied embeddings.

    ``initializer_range`` is 1/sqrt(width). With transformers' default of 0.02, small models do not learn to copy from the context.

    Parameters
    ----------
    vocab_size
        Number of token ids.
    shape
        Shape of the model; the bundled planner's by default.
    tokenizer
        Gives the ids of the special tokens; ``None`` leaves them unset.
    """
    sizes = shape or PlannerShape()
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,  # type: ignore[call-arg]  # Qwen2 reads it, its configuration does not declare it
        max_position_embeddings=sizes.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        tie_word_embeddings=True,
        initializer_range=sizes.hidden_size**-0.5,
        use_cache=True,
        eos_token_id=None if tokenizer is None else tokenizer.eos_token_id,
        pad_token_id=None if tokenizer is None else tokenizer.pad_token_id,
        bos_token_id=None,
    )


@dataclass(frozen=True)
class TrainConfig:
    """The length and the settings of a training run.

    Give ``steps``, ``budget_s`` or both. Progress (0..1) is the share of them that is spent, the larger share where both are given.

    Attributes
    ----------
    steps
        Number of optimiser steps.
    budget_s
        Seconds of training steps, over all resumed parts; evaluations and checkpoints do not count.
    lr
        Peak learning rate.
    schedule
        How the learning rate falls: as a cosine, or linearly at the end of training ("wsd", warmup-stable-decay).
    warmup
        Share of the progress over which the learning rate rises.
    decay
        Share of the progress over which the learning rate falls, under "wsd".
    floor
        Final learning rate as a share of the peak.
    weight_decay, betas
        Weight decay and betas of AdamW.
    grad_clip
        Largest norm of the gradient.
    precision
        The dtype of the matrix products.
    other_weight
        Weight of the targets outside plans, above 0 and below 1; ``None`` for that of the data.
    log_every, eval_every
        Steps between log records and between evaluations; ``eval_every=None`` for no evaluation.
    checkpoint_every_s
        Seconds between checkpoints.
    seed
        Seed of the caller; it is recorded, and training itself does not read it.

    Raises
    ------
    ValueError
        Where neither ``steps`` nor ``budget_s`` is given, for numbers that are not positive, and for weights out of range.
    """

    steps: int | None = None
    budget_s: float | None = None
    lr: float = 1e-3
    schedule: Literal["cosine", "wsd"] = "wsd"
    warmup: float = 0.02
    decay: float = 0.3
    floor: float = 0.05
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0
    precision: Precision = "auto"
    other_weight: float | None = None
    log_every: int = 20
    eval_every: int | None = None
    checkpoint_every_s: float = 180.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.budget_s is None:
            raise ValueError("neither steps nor budget_s is given: say how long to train")
        for name in ("steps", "budget_s", "lr", "grad_clip", "log_every", "eval_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be positive")
        if self.other_weight is not None and not 0 < self.other_weight < 1:
            raise ValueError(f"other_weight={self.other_weight} must be above 0 and below 1, the weight of plans")

    def progress(self, step: int, elapsed_s: float) -> float:
        """Compute the share of the training that is done (0..1) after ``step`` steps in ``elapsed_s`` seconds."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.budget_s is not None:
            shares.append(elapsed_s / self.budget_s)
        return min(1.0, max(shares))

    def learning_rate(self, progress: float) -> float:
        """Compute the learning rate at a progress of 0..1."""
        rise = min(1.0, (progress + 1e-3) / self.warmup) if self.warmup > 0 else 1.0
        return self.lr * rise * _fall(self, progress)

    def record(self) -> dict[str, object]:
        """Return the configuration as plain values, for run directories."""
        return asdict(self)


def _fall(config: TrainConfig, progress: float) -> float:
    if config.schedule == "wsd":
        share = max(0.0, (progress - (1 - config.decay)) / config.decay) if config.decay > 0 else 0.0
        return 1.0 - (1.0 - config.floor) * share
    cosine = 0.5 * (1.0 + math.cos(progress * math.pi))
    return config.floor + (1.0 - config.floor) * cosine


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of the matrix products on ``device``."""
    if precision == "auto":
        return default_dtype(device)
    return torch.float32 if precision == "float32" else torch.bfloat16
