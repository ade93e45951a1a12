"""The pruned engine: prefill that drops unimportant tokens layer by layer, and decode from the cache that is left.

Only ``erecap.backend`` and ``erecap.backend_options``, which make planner backends, import the package ``planner``. All other
modules need only torch, transformers, tokenizers, safetensors and numpy.
"""

from erecap.dropin.protection import protect_roles, protect_spans
from erecap.dropin.pruned import PrunedPrefill, PruneStats, pruned
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import KeptTokens, PrefillResult, prefill
from erecap.engine.selector_protocol import PreparedSelector, Selector
from erecap.models.identity import ModelIdentity, identify
from erecap.models.loading import LoadedModel, load_model, load_pruner
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from erecap.schedule import BudgetError, PruneSchedule, PruneStage
from erecap.selectors import SELECTORS, SelectorContext, make_selector

__all__ = [
    "SELECTORS",
    "BudgetError",
    "ChatTokenizer",
    "DecodeOptions",
    "KeptTokens",
    "LoadedModel",
    "ModelIdentity",
    "PrefillResult",
    "PreparedSelector",
    "PruneSchedule",
    "PruneStage",
    "PruneStats",
    "PrunedPrefill",
    "Selector",
    "SelectorContext",
    "TokenPruner",
    "TokenizedPrompt",
    "decode",
    "identify",
    "load_model",
    "load_pruner",
    "make_selector",
    "prefill",
    "protect_roles",
    "protect_spans",
    "pruned",
]
