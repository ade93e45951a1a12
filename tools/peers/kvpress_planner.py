"""A planner whose KV cache is compressed by one of kvpress' presses after prefill (NVIDIA/kvpress, arXiv 2510.00636).

Not part of the distribution. kvpress asks for an older transformers than erecap does, so it gets an environment of its own:

    python -m venv work/kvpress
    work/kvpress/bin/pip install "torch==2.13.0+cpu" "kvpress==0.5.5"  # or another build of torch; brings transformers 5.2

Models are named by press and compression ratio, the share of KV pairs that is removed: ``none``, ``snapkv-0.5``, ``knorm-0.3``,
``expected-0.5``. Such a name compresses the whole prompt; with ``-history`` behind it, all but the last message and the header of
the answer, which is how kvpress' own pipeline treats a question.

A press works layer by layer on the keys that a full prefill has left, so the first token is always that of the uncompressed model.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from kvpress import ExpectedAttentionPress, KnormPress, ScorerPress, SnapKVPress
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

PRESSES: dict[str, type[ScorerPress]] = {"snapkv": SnapKVPress, "knorm": KnormPress, "expected": ExpectedAttentionPress}
HISTORY = "-history"


@dataclass(frozen=True)
class Compression:
    """What a model's name asks for: a press, or none, and whether it leaves the last message alone."""

    press: ScorerPress | None
    history_only: bool = False

    @classmethod
    def parse(cls, name: str) -> "Compression":
        """Raises ``ValueError`` for a name that asks for no known press, or for a ratio outside (0, 1)."""
        kind, _, ratio = name.removesuffix(HISTORY).rpartition("-")
        if name == "none":
            return cls(None)
        try:
            share = float(ratio)
        except ValueError:
            share = 0.0
        if kind not in PRESSES or not 0.0 < share < 1.0:
            raise ValueError(
                f"model {name!r} is not known: use none, or {', '.join(PRESSES)} with a ratio in (0, 1), such as snapkv-0.5 or "
                f"snapkv-0.5{HISTORY}"
            )
        return cls(PRESSES[kind](compression_ratio=share), name.endswith(HISTORY))


@dataclass(frozen=True)
class Planner:
    """A causal language model in evaluation mode and its tokenizer; greedy, one prompt at a time."""

    model: Any
    tokenizer: Any
    eos_ids: frozenset[int]

    @classmethod
    def load(cls, directory: str, dtype: str = "float32") -> "Planner":
        """From a directory that ``from_pretrained`` reads; ``dtype`` is a torch dtype's name."""
        model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        ends = model.generation_config.eos_token_id
        return cls(model.eval(), tokenizer, frozenset([tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])]))

    def encode(self, messages: Sequence[dict[str, str]], header: bool = True) -> list[int]:
        """Tokens of a conversation rendered by the tokenizer's chat template."""
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=header)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text_of(self, tokens: Sequence[int]) -> str:
        """Text of an answer's tokens, special tokens left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def answer(self, messages: Sequence[dict[str, str]], compression: Compression, max_new_tokens: int) -> Iterator[int]:
        """Tokens of the greedy answer as they come, the end token too."""
        ids = self.encode(messages)
        pressed = len(self.encode(messages[:-1], header=False)) if compression.history_only else len(ids)
        return self.decode(ids, compression.press, pressed, max_new_tokens)

    @torch.inference_mode()
    def decode(self, ids: Sequence[int], press: ScorerPress | None, pressed: int, max_new_tokens: int) -> Iterator[int]:
        """As ``answer``, of token ids, of which the first ``pressed`` are compressed."""
        cache, logits = self.prefill(ids, press, pressed)
        for step in range(max_new_tokens):
            token = int(logits.argmax())
            yield token
            if token in self.eos_ids or step == max_new_tokens - 1:
                return
            logits = self.forward([token], len(ids) + step, cache)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int], press: ScorerPress | None, pressed: int) -> tuple[DynamicCache, Tensor]:
        """The compressed cache, and the logits ``(vocab,)`` of the last token."""
        cache = DynamicCache()
        around: AbstractContextManager[None] = nullcontext() if press is None else press(self.model)
        with around:
            logits = self.forward(ids[:pressed], 0, cache)
        return cache, logits if pressed == len(ids) else self.forward(ids[pressed:], pressed, cache)

    def forward(self, ids: Sequence[int], first_position: int, cache: DynamicCache) -> Tensor:
        """Logits ``(vocab,)`` after ``ids``.

        Positions are those of the uncompressed prompt, as in kvpress' pipeline; the cache no longer knows them.
        """
        row = torch.tensor([list(ids)], device=self.model.device)
        positions = torch.arange(first_position, first_position + len(ids), device=self.model.device)[None]
        output = self.model(input_ids=row, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[0, -1]
        return logits


def kv_bytes(cache: DynamicCache) -> int:
    """Bytes of the keys and values in ``cache``."""
    layers: list[Any] = cache.layers
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
