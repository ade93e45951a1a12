"""The variants that a measurement compares, and the time of their first token."""

from functools import partial

from transformers import PreTrainedModel

from erecap.engine.prefill import prefill
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
