"""What pruning changes in an answer: the loss of a given answer, and the greedy answer of the model itself.

A prompt is prefilled once. The given answer then runs on the pruned cache, each token with those before it, and the cache is cut
back to the prompt for the greedy decode.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from erecap.engine.decode import DecodeOptions, decode
from erecap.engine.prefill import PrefillResult, prefill, run_layer
from erecap.engine.selector_protocol import Selector
from erecap.models.architecture import DecoderParts, decoder_parts
from erecap.models.device import explain_out_of_memory
from erecap.models.grouped_attention import heads_grouped
from erecap.models.kv_cache import trim
from erecap.models.loading import LoadedModel
from erecap.models.masks import extension_mask
from erecap.models.tokenization import TokenizedPrompt
from erecap.schedule import PruneSchedule

PART = 128
"""Tokens of an answer that run together: the logits of all would take much memory."""


@dataclass(frozen=True, eq=False)
class AnswerCase:
    """A prompt and an answer to it.

    Attributes
    ----------
    prompt
        The prompt.
    answer
        Token ids of the answer, its end token included.

    Raises
    ------
    ValueError
        For an answer without tokens.
    """

    prompt: TokenizedPrompt
    answer: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.answer:
            raise ValueError("an answer of 0 tokens has no loss: give at least one token")


@dataclass(frozen=True)
class Answered:
    """What a model did with one case.

    Attributes
    ----------
    loss
        Cross-entropy of the case's answer, mean over its tokens, in nats.
    tokens
        The model's own greedy answer, end token included.
    layer_tokens
        Tokens of the prompt that entered each layer.
    kv_bytes
        Bytes of the prompt's keys and values.
    """

    loss: float
    tokens: tuple[int, ...]
    layer_tokens: tuple[int, ...]
    kv_bytes: int


@dataclass(frozen=True)
class Agreement:
    """How far an answer equals another.

    Attributes
    ----------
    plan
        Whether all tokens are equal.
    first_line
        Whether the texts of the first lines are equal.
    tokens
        Share of places that hold the same token, of the places of the longer answer, 0 to 1.
    """

    plan: bool
    first_line: bool
    tokens: float


def answer_case(
    loaded: LoadedModel, case: AnswerCase, schedule: PruneSchedule, selector: Selector | None, max_new_tokens: int
) -> Answered:
    """Prefill a case's prompt under a schedule, measure the loss of its answer, and decode the model's own.

    Parameters
    ----------
    loaded
        The model.
    case
        Prompt and answer.
    schedule
        Where tokens of the prompt are dropped and how many.
    selector
        Scores the tokens; ``None`` for the empty schedule.
    max_new_tokens
        The most tokens of the greedy answer.

    Raises
    ------
    ContextLengthError
        Where prompt and answer exceed the model's positions.
    OutOfMemoryError
        Where they exceed the GPU's memory.
    """
    options = DecodeOptions(max_new_tokens, eos_ids=loaded.eos_ids)
    with explain_out_of_memory(loaded.device, f"a prompt of {len(case.prompt)} tokens"):
        start = prefill(loaded.model, case.prompt, schedule, selector)
        loss = float(answer_losses(loaded.model, start, case.answer).mean())
        tokens = tuple(token for (token,) in decode(loaded.model, start, options) if token is not None)
    return Answered(loss, tokens, start.layer_tokens[0], start.kv_bytes)


@torch.inference_mode()
def answer_losses(model: PreTrainedModel, start: PrefillResult, answer: Sequence[int]) -> Tensor:
    """Compute the cross-entropy of each token of an answer after a prefilled prompt. The cache is left as it was.

    Parameters
    ----------
    model
        The model that ran the prefill.
    start
        Result of the prefill of one prompt, before any decode.
    answer
        Token ids of the answer, at least one.

    Returns
    -------
    Tensor
        float32 ``(tokens,)`` in nats.
    """
    parts, ids = decoder_parts(model), torch.tensor(list(answer), device=start.logits.device)
    losses = [functional.cross_entropy(start.logits, ids[:1], reduction="none")]
    for done in range(0, len(answer) - 1, PART):
        read = ids[done : min(done + PART, len(answer) - 1)]
        logits = _run_answer(parts, start, read, done)
        losses.append(functional.cross_entropy(logits, ids[done + 1 : done + 1 + len(read)], reduction="none"))
    for layer, tokens in enumerate(start.layer_tokens[0]):
        trim(start.cache, layer, tokens)
    return torch.cat(losses)


def _run_answer(parts: DecoderParts, start: PrefillResult, ids: Tensor, done: int) -> Tensor:
    """Run tokens of an answer, int64 ``(new,)``, behind the prompt and ``done`` others: logits, float32 ``(new, vocab)``."""
    hidden = parts.embed(ids[None].to(parts.entry))
    positions = start.next_positions[0] + done + torch.arange(len(ids), device=parts.entry)
    cos, sin = parts.rotary(hidden, positions[None])
    with heads_grouped(parts.config, parts.attention, len(ids), hidden.device):
        for layer, place, held in zip(parts.layers, parts.places, start.layer_tokens[0], strict=True):
            hidden = hidden.to(place)
            mask = extension_mask(parts.attention, held + done + len(ids), hidden)
            hidden = run_layer(layer, hidden, mask, start.cache, (cos.to(place), sin.to(place)))
    logits: Tensor = parts.head(parts.norm(hidden[0])).float()
    return logits.to(start.logits.device)


def agreement(
    answer: Sequence[int], reference: Sequence[int], decode_text: Callable[[Sequence[int]], str], eos_ids: frozenset[int]
) -> Agreement:
    """Compare an answer with the answer of the unpruned model.

    Parameters
    ----------
    answer, reference
        Token ids, end tokens included.
    decode_text
        Turns token ids into text.
    eos_ids
        Tokens that end an answer; no text.
    """

    def first_line(tokens: Sequence[int]) -> str:
        return decode_text([token for token in tokens if token not in eos_ids]).partition("\n")[0]

    same = sum(mine == other for mine, other in zip(answer, reference, strict=False))
    longer = max(len(answer), len(reference))
    return Agreement(list(answer) == list(reference), first_line(answer) == first_line(reference), same / longer if longer else 1.0)
