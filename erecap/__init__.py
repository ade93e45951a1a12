"""The pruned engine: prefill that drops unimportant tokens layer by layer, and decode from the cache that is left.

Only ``erecap.backend`` knows the planner; everything else needs torch, transformers, tokenizers, safetensors and numpy alone.
"""

from erecap.decoding import DecodeOptions, decode
from erecap.dropin import PruneStats, pruned
from erecap.identity import ModelIdentity, identify
from erecap.prefilling import PrefillResult, prefill
from erecap.pruner import TokenPruner
from erecap.schedule import PruneSchedule, PruneStage
from erecap.selectors import SELECTORS, Selector, SelectorContext, make_selector
from erecap.tokenization import ChatTokenizer, TokenizedPrompt

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
