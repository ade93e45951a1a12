"""Selectors, which score the tokens at a stage. A new one is a file with a ``score`` method and a line in ``SELECTORS``."""

from collections.abc import Callable

from erecap.engine.selector_protocol import PreparedSelector, Selector
from erecap.selectors.attention import AttentionSelector
from erecap.selectors.base import SelectorContext
from erecap.selectors.gradient import GradientSelector
from erecap.selectors.key_norm import KeyNormSelector
from erecap.selectors.learned import LearnedSelector
from erecap.selectors.learned_steps import LearnedStepsSelector
from erecap.selectors.random_scores import RandomSelector
from erecap.selectors.recency import RecencySelector

SELECTORS: dict[str, Callable[[SelectorContext], Selector]] = {
    "learned": LearnedSelector.from_context,
    "learned-steps": LearnedStepsSelector.from_context,
    "random": RandomSelector.from_context,
    "recency": RecencySelector.from_context,
    "key-norm": KeyNormSelector.from_context,
    "attention": AttentionSelector.from_context,
    "gradient": GradientSelector.from_context,
}

USE_PRUNER = ("learned", "learned-steps")
"""Names of the selectors that score with a pruner."""

__all__ = [
    "SELECTORS",
    "USE_PRUNER",
    "AttentionSelector",
    "GradientSelector",
    "KeyNormSelector",
    "LearnedSelector",
    "LearnedStepsSelector",
    "PreparedSelector",
    "RandomSelector",
    "RecencySelector",
    "Selector",
    "SelectorContext",
    "make_selector",
]


def make_selector(name: str, context: SelectorContext) -> Selector:
    """Make the selector called ``name``.

    Parameters
    ----------
    name
        A key of ``SELECTORS``.
    context
        Schedule, pruner, model and seed that the selector may use.

    Raises
    ------
    ValueError
        For an unknown name, or a context without the pruner or the model that the selector needs.
    """
    if name not in SELECTORS:
        raise ValueError(f"selector {name!r} is not known: the selectors are {', '.join(SELECTORS)}")
    return SELECTORS[name](context)
