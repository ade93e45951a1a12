"""The variants that a measurement compares, and the time of their first token."""

from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from erecap.engine.prefill import prefill
from erecap.models.architecture import decoder_parts
from erecap.models.tokenization import TokenizedPrompt
from erecap.profiling.timing import seconds_of
from erecap.schedule import PruneSchedule
from erecap.selectors import Selector

Variant = tuple[PruneSchedule, Selector | None]
"""Schedule and selector of a prefill."""

Variants = dict[float, Variant]
"""Variants by keep ratio; 1.0 is the baseline, with the empty schedule."""


def seconds_to_first_token(model: PreTrainedModel, prompt: TokenizedPrompt, variant: Variant) -> float:
    """Prefill ``prompt`` and return the seconds until the host knows the first token."""
    return seconds_of(partial(_first_token, model, prompt, variant), model.device)


def _first_token(model: PreTrainedModel, prompt: TokenizedPrompt, variant: Variant) -> object:
    return prefill(model, prompt, *variant).logits.argmax(-1).tolist()


def stock_seconds_to_first_token(model: PreTrainedModel, prompt: TokenizedPrompt) -> float:
    """Let transformers' own ``generate`` write one token and return its seconds."""
    ids = torch.from_numpy(prompt.input_ids)[None].to(decoder_parts(model).entry)
    config = GenerationConfig(max_new_tokens=1, do_sample=False, eos_token_id=[model.config.vocab_size], pad_token_id=0)  # type: ignore[no-untyped-call]
    stock: Any = model.generate
    return seconds_of(partial(stock, ids, attention_mask=torch.ones_like(ids), generation_config=config), model.device)
