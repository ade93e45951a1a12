"""The pruned engine: prefill that drops unimportant tokens layer by layer, and decode from the cache that is left.

Only ``erecap.backend`` knows the planner; everything else needs torch, transformers, tokenizers, safetensors and numpy alone.
"""

from erecap.dropin.pruned import PruneStats, pruned
from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import PrefillResult, prefill
from erecap.models.identity import ModelIdentity, identify
from erecap.models.pruner import TokenPruner
from erecap.models.tokenization import ChatTokenizer, TokenizedPrompt
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import SELECTORS, Selector, SelectorContext, make_selector

__all__ = [
    "SELECTORS",
    "ChatTokenizer",
    "DecodeOptions",
    "ModelIdentity",
    "PrefillResult",
    "PruneSchedule",
    "PruneStage",
    "PruneStats",
    "Selector",
    "SelectorContext",
    "TokenPruner",
    "TokenizedPrompt",
    "decode",
    "identify",
    "make_selector",
    "prefill",
    "pruned",
]
