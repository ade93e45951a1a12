"""The masked reference: a slow implementation that defines pruning. The engine must agree with it.

Every token goes through every layer, and there is no cache. A dropped token stays in its place, but the layers after its stage do
not attend to it. The reference shares only the model's modules with the engine: it selects tokens in plain Python, by sorted lists.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from erecap.engine.selector_protocol import PreparedSelector, Selector
from erecap.models.architecture import decoder_parts
from erecap.models.masks import attention_mask
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule
from erecap.schedule.counts import share_of


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
    model: PreTrainedModel, prompt: TokenizedPrompt, continuation: Sequence[int], schedule: PruneSchedule, selector: Selector
) -> ReferenceResult:
    """Run a prompt and a continuation through a model. Stages drop tokens of the prompt only.

    Use it in tests and to judge selectors: its memory grows with the square of the full length.

    Parameters
    ----------
    model
        A stock transformers model in evaluation mode.
    prompt
        The prompt.
    continuation
        Token ids that follow it.
    schedule
        Where tokens are dropped and how many.
    selector
        Scores the tokens at the stages.
    """
    parts, length = decoder_parts(model), len(prompt)
    ids = torch.tensor([[*prompt.input_ids.tolist(), *continuation]], device=model.device)
    hidden, positions = parts.embed(ids), torch.arange(ids.shape[1], device=ids.device)[None]
    rope = parts.rotary(hidden, positions)
    stages = {stage.after_layer: index for index, stage in enumerate(schedule.stages)}
    alive, kept = list(range(length)), []
    if isinstance(selector, PreparedSelector) and stages:
        selector.prepare(ids[:, :length], [length])
    for number, layer in enumerate(parts.layers):
        hidden = layer(hidden, attention_mask(parts.attention, _mask(alive, length, ids), hidden), position_embeddings=rope)
        if number in stages:
            lengths = torch.tensor([len(alive)], device=ids.device)
            scores = selector.score(hidden[:, alive], positions[:, alive], stages[number], lengths)[0].tolist()
            alive = _survivors(alive, scores, prompt, schedule, stages[number])
            kept.append(tuple(alive))
    logits = parts.head(parts.norm(hidden[0, length - 1 :])).float()
    return ReferenceResult(logits, tuple(kept))


def _mask(alive: list[int], length: int, ids: Tensor) -> Tensor:
    """Mark the keys of each query, bool ``(1, 1, n, n)``: itself, earlier surviving prompt tokens, earlier continuation."""
    total = ids.shape[1]
    visible = torch.zeros(total, dtype=torch.bool, device=ids.device)
    visible[alive] = True
    visible[length:] = True
    causal = torch.ones(total, total, dtype=torch.bool, device=ids.device).tril()
    return ((causal & visible) | torch.eye(total, dtype=torch.bool, device=ids.device))[None, None]


def _survivors(alive: list[int], scores: list[float], prompt: TokenizedPrompt, schedule: PruneSchedule, stage: int) -> list[int]:
    """Choose the positions that survive a stage, by the schedule's rule. NaN ranks lowest."""
    tail = max(schedule.tail_min, share_of(len(alive), schedule.tail_share))
    forced = {p for p in alive if p < schedule.head or prompt.protected[p]} | {*alive[max(0, len(alive) - tail) :]}
    score = {p: -math.inf if math.isnan(value) else value for p, value in zip(alive, scores, strict=True)}
    others, chosen = [p for p in alive if p not in forced], schedule.stages[stage]
    if schedule.rule == "threshold":
        assert chosen.tau is not None
        return sorted([*forced, *(p for p in others if score[p] > chosen.tau)])
    if schedule.rule == "chunk_top_k":
        chunks = [[p for p in others if _chunk(p, prompt) == chunk] for chunk in range(len(prompt.segment_ends) + 1)]
        return sorted([*forced, *(p for chunk in chunks for p in _best(chunk, score, share_of(len(chunk), chosen.keep)))])
    return sorted([*forced, *_best(others, score, share_of(len(alive), chosen.keep) - len(forced))])


def _best(candidates: list[int], score: dict[int, float], count: int) -> list[int]:
    """Choose the ``count`` best scores; none where ``count`` is negative. Ties go to the earlier position."""
    return sorted(candidates, key=lambda p: (-score[p], p))[: max(0, count)]


def _chunk(position: int, prompt: TokenizedPrompt) -> int:
    """Find the number of the message that a token belongs to. The header of the answer has the next number after the last."""
    return sum(end <= position for end in prompt.segment_ends)
