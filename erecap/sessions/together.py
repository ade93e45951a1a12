"""Answers of several sessions, decoded in one batch over their caches, which hold unequal numbers of tokens in each layer.

The caches are copied into one for as long as the answers take, so the batch needs their memory twice, padded to the longest. A row
leaves the batch when its answer ends. Then its session takes in the tokens of the answer, as if it had decoded them itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from erecap.engine.decode import DecodeOptions, decode_by
from erecap.engine.decode_steps import DecodeSteps
from erecap.engine.prefill import PrefillResult
from erecap.engine.selector_protocol import Selector
from erecap.models.architecture import decoder_parts
from erecap.models.kv_cache import make_cache
from erecap.schedule import PruneSchedule
from erecap.sessions.held import HeldTokens
from erecap.sessions.session import ReplanSession


@torch.inference_mode()
def plan_together(
    model: PreTrainedModel,
    sessions: Sequence[ReplanSession],
    schedule: PruneSchedule,
    selector: Selector | None,
    options: DecodeOptions,
    on_step: Callable[[tuple[int | None, ...]], object],
) -> None:
    """Decode an answer to the last prompt of each session, without drafts.

    Parameters
    ----------
    model, schedule, selector
        Those of all sessions.
    sessions
        The sessions, each of them once.
    options
        Settings of the decode; its ban may be one for each session.
    on_step
        Called after each step with the token of each session; ``None`` for one whose answer has ended.

    Raises
    ------
    ContextLengthError
        Where a prompt and its answer exceed the model's positions.
    ValueError
        For a session without a prompt.
    """
    begun = [session.begin_answer(options) for session in sessions]
    for start, held in begun:
        held.crop(len(start.prompt))
    logits = torch.cat([start.logits[:1] for start, _ in begun])
    batch = _Batch(model, [held for _, held in begun], schedule, selector, logits, options.max_new_tokens)
    for tokens in decode_by(batch.run, batch.parts, logits, options, batch.keep_rows):
        batch.write(tokens)
        on_step(tokens)
    batch.end()


class _Batch:
    """The rows under way; row ``i`` of the batch is that of session ``rows[i]``."""

    def __init__(
        self,
        model: PreTrainedModel,
        held: Sequence[HeldTokens],
        schedule: PruneSchedule,
        selector: Selector | None,
        logits: Tensor,
        max_new_tokens: int,
    ) -> None:
        self.parts, self._held, self._selector = decoder_parts(model), held, selector
        self._stages = {layer: index for index, layer in enumerate(schedule.layers)}
        self._rows, self._answers = list(range(len(held))), [list[int]() for _ in held]
        self._scores: list[tuple[list[int], Tensor]] = []  # rows and scores of each step that was run
        self._new = list[Tensor]()
        tokens = tuple(one.cache.layer_tokens for one in held)
        self._widths = tuple(map(max, zip(*tokens, strict=True)))
        self._cache = _joined(model, held)
        start = PrefillResult(self._cache, logits, (), tokens, tuple(map(len, held)), 0)
        self._steps = DecodeSteps(self.parts, start, max_new_tokens, self._score)

    def write(self, tokens: Sequence[int | None]) -> None:
        """Add the next token of each session to its answer."""
        for answer, token in zip(self._answers, tokens, strict=True):
            answer += [] if token is None else [token]

    def run(self, tokens: Tensor, step: int) -> Tensor:
        """Run one step (``DecodeSteps.run``)."""
        self._new.clear()
        logits = self._steps.run(tokens, step)
        none = torch.zeros(0, len(self._rows), device=self.parts.entry)
        self._scores.append((self._rows, torch.stack(self._new) if self._new else none))
        return logits

    def keep_rows(self, places: Sequence[int]) -> None:
        """Let the other rows leave, and their sessions take in the answers."""
        for place in sorted(set(range(len(self._rows))) - set(places)):
            self._take_in(place)
        self._steps.keep_rows(places)
        self._rows = [self._rows[place] for place in places]

    def end(self) -> None:
        """Let the sessions of the rows that are left take in the answers."""
        for place in range(len(self._rows)):
            self._take_in(place)

    def _take_in(self, place: int) -> None:
        row, ran = self._rows[place], len(self._scores)
        if not ran:
            return
        scores = torch.stack([made[:, rows.index(row)] for rows, made in self._scores], dim=1)
        held = [_last(self._cache, layer, place, ran) for layer in range(len(self._widths))]
        self._held[row].take_answer(self._answers[row][:ran], scores, held)

    def _score(self, layer: int, hidden: Tensor) -> None:
        if layer in self._stages and self._selector is not None:
            positions = [len(self._held[row]) + len(self._scores) for row in self._rows]
            places = torch.tensor(positions, device=hidden.device)[:, None]
            made = self._selector.score(hidden, places, self._stages[layer], torch.ones_like(places[:, 0]))
            self._new.append(self.parts.agree(made)[:, 0].to(self.parts.entry))


def _joined(model: PreTrainedModel, held: Sequence[HeldTokens]) -> DynamicCache:
    """Copy the caches of several sessions into one, a row each, padded behind the tokens of a row."""
    cache = make_cache(model.config)
    for layer in range(model.config.num_hidden_layers):
        keys, values = zip(*(one.cache.states(layer) for one in held), strict=True)
        cache.update(_padded(keys), _padded(values), layer)
    return cache


def _padded(states: Sequence[Tensor]) -> Tensor:
    width = max(one.shape[-2] for one in states)
    return torch.cat([functional.pad(one, (0, 0, 0, width - one.shape[-2])) for one in states])


def _last(cache: DynamicCache, layer: int, row: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Return the last keys and values of a row, each ``(1, kv_heads, tokens, head_dim)``, as views."""
    held: Any = cache.layers[layer]
    return held.keys[row : row + 1, :, -tokens:], held.values[row : row + 1, :, -tokens:]
