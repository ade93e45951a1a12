"""The shape of the bundled planner, and how it is trained."""

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config

from erecap.models.device import default_dtype

Precision = Literal["auto", "float32", "bfloat16"]


def planner_config(
    vocab_size: int,
    hidden_size: int = 128,
    intermediate_size: int = 512,
    num_layers: int = 8,
    num_heads: int = 4,
    num_kv_heads: int = 1,
    head_dim: int = 64,
    max_positions: int = 16384,
    rope_theta: float = 1_000_000.0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Qwen2Config:
    """The Qwen2 configuration of a planner of a few million parameters, with tied embeddings.

    ``initializer_range`` is 1/sqrt(width): with transformers' 0.02 copying from the context does not appear at small widths.
    ``rope_theta`` is Qwen2's: half of a head's pairs hardly turn over 8k positions, which leaves them to compare content at any
    distance (the bound of "Base of RoPE Bounds Context Length", arXiv 2405.14591, is about 8e4); the others tell places apart.
    ``tokenizer`` gives the ids of the special tokens.
    """
    return Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,  # type: ignore[call-arg]  # kept as a further attribute, which Qwen2 reads
        max_position_embeddings=max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=True,
        initializer_range=hidden_size**-0.5,
        use_cache=True,
        eos_token_id=None if tokenizer is None else tokenizer.eos_token_id,
        pad_token_id=None if tokenizer is None else tokenizer.pad_token_id,
        bos_token_id=None,
    )


@dataclass(frozen=True)
class TrainConfig:
    """How long and how to train. Progress is the share spent of ``steps`` or of ``budget_s``, whichever is ahead.

    ``budget_s`` is wall time in seconds spent in training steps (evaluation and checkpoints excluded), over all resumed parts.
    The learning rate rises over the first ``warmup`` of progress and falls to ``floor`` of its
    peak: along a cosine, or ("wsd") along a line over the last ``decay`` of progress. Intervals are in steps, but
    ``checkpoint_every_s`` in seconds.
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

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the training that is done, 0..1."""
        shares = [0.0]
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.budget_s is not None:
            shares.append(elapsed_s / self.budget_s)
        return min(1.0, max(shares))

    def learning_rate(self, progress: float) -> float:
        """The learning rate at a progress of 0..1."""
        rise = min(1.0, (progress + 1e-3) / self.warmup) if self.warmup > 0 else 1.0
        return self.lr * rise * _fall(self, progress)

    def record(self) -> dict[str, object]:
        """The configuration as plain values, for run directories."""
        return asdict(self)


def _fall(config: TrainConfig, progress: float) -> float:
    if config.schedule == "wsd":
        share = max(0.0, (progress - (1 - config.decay)) / config.decay) if config.decay > 0 else 0.0
        return 1.0 - (1.0 - config.floor) * share
    cosine = 0.5 * (1.0 + math.cos(progress * math.pi))
    return config.floor + (1.0 - config.floor) * cosine


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products; "auto" is what the engine takes by default on this device."""
    if precision == "auto":
        return default_dtype(device)
    return torch.float32 if precision == "float32" else torch.bfloat16
