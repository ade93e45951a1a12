"""The masked reference: a slow implementation that defines pruning. The engine must agree with it.

Every token goes through every layer, and there is no cache. A dropped token stays in its place, but the layers after its stage do
not attend to it. The reference shares only the model's modules and the data types of prompts and schedules with the engine. It has
its own counts, its own masks, and selects tokens in plain Python, by sorted lists.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule


@dataclass(frozen=True)
class ReferenceResult:
    """The result of the masked reference.

    Attributes
    ----------
    logits
        Logits after the prompt and after each token of the continuation, float32 ``(1 + continuation, vocab)``.
    kept
        Original positions of the survivors of each stage, rising.
    """

    logits: Tensor
    kept: tuple[tuple[int, ...], ...]


@torch.inference_mode()
def reference(
    model: PreTrainedModel, prompt: TokenizedPrompt, continuation: Sequence[int], schedule: PruneSchedule, selector: Any
) -> ReferenceResult:
    """Run a prompt and a continuation through a model. Stages drop tokens of the prompt only.

    Use it in tests and to judge selectors: its memory grows with the square of the full length.

    Parameters
    ----------
    model
        A stock transformers model in evaluation mode, with the attention ``sdpa`` or ``eager``.
    prompt
        The prompt.
    continuation
        Token ids that follow it.
    schedule
        Where tokens are dropped and how many.
    selector
        Scores the tokens at the stages, as the engine's selectors do.
    """
    parts: Any = model  # transformers' accessors are untyped
    decoder, length = parts.get_decoder(), len(prompt)
    ids = torch.tensor([[*prompt.input_ids.tolist(), *continuation]], device=model.device)
    hidden, positions = decoder.embed_tokens(ids), torch.arange(ids.shape[1], device=ids.device)[None]
    rope = decoder.rotary_emb(hidden, positions)
    stages = {stage.after_layer: index for index, stage in enumerate(schedule.stages)}
    alive, kept = list(range(length)), []
    if hasattr(selector, "prepare") and stages:
        selector.prepare(ids[:, :length], [length])
    for number, layer in enumerate(decoder.layers):
        hidden = layer(hidden, _mask(alive, length, hidden), position_embeddings=rope)
        if number in stages:
            lengths = torch.tensor([len(alive)], device=ids.device)
            scores = selector.score(hidden[:, alive], positions[:, alive], stages[number], lengths)[0].tolist()
            alive = _survivors(alive, scores, prompt, schedule, stages[number])
            kept.append(tuple(alive))
    logits = parts.get_output_embeddings()(decoder.norm(hidden[0, length - 1 :])).float()
    return ReferenceResult(logits, tuple(kept))


def _mask(alive: list[int], length: int, hidden: Tensor) -> Tensor:
    """Hide from each query all but itself, earlier surviving prompt tokens and earlier continuation.

    The mask is added to the logits: 0 where a key is visible, the lowest number of the dtype of ``hidden`` elsewhere,
    ``(1, 1, n, n)``.
    """
    total, device = hidden.shape[1], hidden.device
    visible = torch.zeros(total, dtype=torch.bool, device=device)
    visible[alive] = True
    visible[length:] = True
    causal = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    seen = (causal & visible) | torch.eye(total, dtype=torch.bool, device=device)
    hidden_keys = torch.zeros(total, total, dtype=hidden.dtype, device=device)
    return hidden_keys.masked_fill(~seen, torch.finfo(hidden.dtype).min)[None, None]


def _survivors(alive: list[int], scores: list[float], prompt: TokenizedPrompt, schedule: PruneSchedule, stage: int) -> list[int]:
    """Choose the positions that survive a stage, by the schedule's rule. NaN ranks lowest."""
    tail = max(schedule.tail_min, _share_of(len(alive), schedule.tail_share))
    forced = {p for p in alive if p < schedule.head or prompt.protected[p]} | {*alive[max(0, len(alive) - tail) :]}
    score = {p: -math.inf if math.isnan(value) else value for p, value in zip(alive, scores, strict=True)}
    others, chosen = [p for p in alive if p not in forced], schedule.stages[stage]
    if schedule.rule == "threshold":
        assert chosen.tau is not None
        return sorted([*forced, *(p for p in others if score[p] > chosen.tau)])
    if schedule.rule == "chunk_top_k":
        chunks = [[p for p in others if _chunk(p, prompt) == chunk] for chunk in range(len(prompt.segment_ends) + 1)]
        return sorted([*forced, *(p for chunk in chunks for p in _best(chunk, score, _share_of(len(chunk), chosen.keep)))])
    return sorted([*forced, *_best(others, score, _share_of(len(alive), chosen.keep) - len(forced))])


def _best(candidates: list[int], score: dict[int, float], count: int) -> list[int]:
    """Choose the ``count`` best scores; none where ``count`` is negative. Ties go to the earlier position."""
    return sorted(candidates, key=lambda p: (-score[p], p))[: max(0, count)]


def _chunk(position: int, prompt: TokenizedPrompt) -> int:
    """Find the number of the message that a token belongs to. The header of the answer has the next number after the last."""
    return sum(end <= position for end in prompt.segment_ends)


def _share_of(count: int, share: float) -> int:
    """Return ``share`` of ``count`` as a whole number, halves rounded up."""
    return math.floor(count * share + 0.5)
